package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// The OCI's own conformance program against a mirror, in its read-only mode.
func TestConformance(t *testing.T) {
	if os.Getenv("PYRSIA_CLIENTS") == "" {
		t.Skip("needs a registry and a build: run 'make conformance'")
	}
	registry, err := rig.DockerRegistry()
	if err != nil {
		t.Fatal(err)
	}
	r, err := rig.Start(t.Context(), t.TempDir(), registry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	subject := pushWithReferrer(t, r)
	d, _, err := r.Publish(t.Context(), "conformance:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push(t.Context(), "conformance:2", makeImage(t, "another image")); err != nil {
		t.Fatal(err)
	}
	other, height, err := r.Publish(t.Context(), "conformance:2")
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.StartMirror(t.Context(), "mirror")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitBlock(t.Context(), height); err != nil {
		t.Fatal(err)
	}
	layers, err := subject.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := subject.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	program := buildTool(t, "github.com/opencontainers/distribution-spec/conformance")
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+m.Mirror, "OCI_TLS=disabled", "OCI_REPO1=library/conformance", "OCI_REPO2=library/conformance",
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_API_BLOBS_ATOMIC=false", "OCI_API_MANIFESTS_ATOMIC=false", "OCI_API_TAGS_ATOMIC=false",
		"OCI_RO_DATA_TAGS=1 2", "OCI_RO_DATA_MANIFESTS="+d.String()+" "+other.String(),
		"OCI_RO_DATA_BLOBS="+blob.String()+" "+config.String(), "OCI_RO_DATA_REFERRERS="+d.String(),
		"OCI_RESULTS_DIR="+filepath.Join(cmd.Dir, "results"))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	// One version of the program panics when it writes its report of a
	// read-only run, after it has printed the results.
	if err != nil && !strings.Contains(string(out), "panic") {
		t.Error(err)
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ +(Pass|FAIL|Error|Skip)\.+: +(\d+)$`).FindAllStringSubmatch(string(out), -1) {
		got[m[1]] = m[2]
	}
	if diff := cmp.Diff(map[string]string{"Pass": "20", "FAIL": "0", "Error": "0", "Skip": "0"}, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func makeImage(t *testing.T, content string) v1.Image {
	t.Helper()
	layer, err := image.OCI.Layer(0, image.File{Path: "content", Data: []byte(content), Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.OCI.Image(v1.Platform{OS: "linux", Architecture: "amd64"}, v1.Config{}, layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// pushWithReferrer pushes an image and one that refers to it, by the tag that
// stands in for a referrers API (OCI distribution-spec 1.1).
func pushWithReferrer(t *testing.T, r *rig.Rig) v1.Image {
	t.Helper()
	subject := makeImage(t, "an image")
	desc, err := partial.Descriptor(subject)
	if err != nil {
		t.Fatal(err)
	}
	attestation := mutate.Subject(makeImage(t, "an attestation"), *desc).(v1.Image)
	repo, err := name.NewRepository(r.Registry.Addr+"/library/conformance", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push(t.Context(), "conformance:1", subject); err != nil {
		t.Fatal(err)
	}
	d, err := attestation.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(repo.Digest(d.String()), attestation, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return subject
}
