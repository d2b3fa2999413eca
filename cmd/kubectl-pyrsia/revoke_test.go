package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/runtime"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// apiServer is a real API server with a publisher in it, and a kubeconfig.
func apiServer(t *testing.T) (api kube.Client, kubeconfig string) {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		const reason = "KUBEBUILDER_ASSETS does not name the folder of kube-apiserver and etcd ('make test' does)"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../../config/crd"}, ErrorIfCRDPathMissing: true}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if api, err = kube.New(config, kube.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	publisher := new(v1alpha1.PyrsiaNode)
	publisher.Namespace, publisher.Name, publisher.Spec.Role = "default", "publisher", v1alpha1.RolePublisher
	if err := api.Create(t.Context(), publisher); err != nil {
		t.Fatal(err)
	}
	return api, kubeconfig
}

// runPlugin runs a command, of which a node is at an address.
func runPlugin(t *testing.T, node string, args ...string) (string, error) {
	t.Helper()
	root := command(&cluster{reach: func(context.Context) (*client.Client, error) { return client.New(node, http.DefaultClient), nil }})
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func entry(image string, d digest.Digest, platform ledger.Platform) *ledger.AddArtifact {
	return &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: image, Digest: d, MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
		Platforms: []ledger.Platform{platform}, Pieces: digest.FromString("pieces"), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
	}
}

func TestRevoke(t *testing.T) {
	api, kubeconfig := apiServer(t)
	skey, _, err := ledger.GenerateKey("ledger.example/plugin")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	bad, index := digest.FromString("bad"), digest.FromString("index")
	for image, d := range map[string]digest.Digest{
		"docker.io/library/alpine:3.20": bad, "docker.io/library/alpine:latest": bad,
		"docker.io/library/alpine:multi": index, "docker.io/library/busybox:1": bad,
	} {
		platform := ledger.Platform{Platform: "linux/amd64", Digest: digest.FromString("of " + d.String()), Config: digest.FromString("config"), Size: 1}
		if d == index {
			platform.Digest = bad
		}
		if _, err := w.Append(t.Context(), entry(image, d, platform)); err != nil {
			t.Fatal(err)
		}
	}
	node := httptest.NewServer(w.Handler())
	defer node.Close()
	run := func(args ...string) (string, error) {
		return runPlugin(t, node.URL, append([]string{"--kubeconfig", kubeconfig, "-n", "default", "revoke"}, args...)...)
	}
	published := new(v1alpha1.Artifact)
	published.Namespace, published.Name = "default", "alpine"
	published.Spec = v1alpha1.ArtifactSpec{Image: "docker.io/library/alpine:3.20", Digest: bad.String(), PublisherRef: v1alpha1.LocalReference{Name: "publisher"}}
	if err := api.Create(t.Context(), published); err != nil {
		t.Fatal(err)
	}
	name := "alpine:3.20@" + bad.String()

	// What it concerns is shown first, and nothing is changed.
	for _, args := range [][]string{{name, "--reason", "malware"}, {"alpine", "--reason", "malware"}, {"alpine@" + bad.String(), "--reason", "malware"},
		{"127.0.0.1:5001/library/alpine:3.20@" + bad.String(), "--reason", "malware"}, {"127.0.0.1:5001/library/alpine@" + bad.String(), "--reason", "malware"}} {
		out, err := run(args...)
		if err == nil || !strings.Contains(err.Error(), "--yes") {
			t.Errorf("%v without --yes: %v", args, err)
		}
		for _, want := range []string{"alpine:3.20\n", "alpine:latest\n", "alpine:multi@" + index.String()} {
			if !strings.Contains(out, want) {
				t.Errorf("%v does not show %q:\n%s", args, want, out)
			}
		}
		if strings.Contains(out, "busybox") {
			t.Errorf("%v shows another repository:\n%s", args, out)
		}
	}
	if err := api.Get(t.Context(), kube.ObjectKeyFromObject(published), published); err != nil || published.Spec.State != v1alpha1.StatePublished {
		t.Errorf("without --yes: state %s, %v", published.Spec.State, err)
	}
	for args, want := range map[string]string{
		name:                                "--reason",
		"alpine:3.20 --reason x":            "reading the Artifact",
		"alpine:3.20@sha256:1 --reason x":   "digest",
		"no-such-artifact --reason malware": "not found",
		"alpine@sha256:" + bad.Encoded()[:12] + " --reason x":                                    "all 64",
		"127.0.0.1:5001/library/alpine@" + digest.FromString("nothing").String() + " --reason x": "the ledger records no",
	} {
		if _, err := run(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}

	if _, err := run(name, "--reason", "contains malware", "--yes"); err != nil {
		t.Fatal(err)
	}
	if err := api.Get(t.Context(), kube.ObjectKeyFromObject(published), published); err != nil || published.Spec.State != v1alpha1.StateRevoked || published.Spec.Reason != "contains malware" {
		t.Errorf("with --yes: %+v, %v", published.Spec, err)
	}
	if _, err := run(name, "--reason", "again", "--yes"); err == nil || !strings.Contains(err.Error(), "contains malware") {
		t.Errorf("again: %v, want that it is revoked already", err)
	}
	// A digest without an Artifact gets one, under the name that the ledger has for it.
	out, err := run("127.0.0.1:5001/library/alpine:multi@"+index.String(), "--reason", "contains malware", "--yes")
	if err != nil {
		t.Fatal(err)
	}
	var list v1alpha1.ArtifactList
	if err := api.List(t.Context(), &list); err != nil || len(list.Items) != 2 {
		t.Fatalf("%d Artifacts, %v", len(list.Items), err)
	}
	for _, a := range list.Items {
		if a.Name != "alpine" && (a.Spec.State != v1alpha1.StateRevoked || a.Spec.Digest != index.String() || a.Spec.Image != "docker.io/library/alpine:multi" || !strings.Contains(out, a.Name)) {
			t.Errorf("the new Artifact: %+v\n%s", a.Spec, out)
		}
	}
}
