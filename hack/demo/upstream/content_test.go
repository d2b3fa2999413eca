package upstream

import (
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// dockerRegistry finds the real registry, or skips.
func dockerRegistry(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("PYRSIA_DOCKER_REGISTRY"); p != "" {
		return p
	}
	p, err := exec.LookPath("docker-registry")
	if err == nil {
		return p
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("docker-registry is not installed: run this by 'make test', or apt-get install docker-registry")
	}
	t.Skip("docker-registry is not installed: run this by 'make test', or apt-get install docker-registry")
	return ""
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestContentOnARealRegistry(t *testing.T) {
	r, err := Start(t.Context(), dockerRegistry(t), t.TempDir(), freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	c := Content{Registry: r.Addr, Busybox: []byte("a program"), Debian: archive(t)}
	digests, err := c.PushAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]types.MediaType{
		"busybox:1.35": types.OCIImageIndex,
		"hello:1":      types.DockerManifestList,
		"big:1":        types.OCIManifestSchema1,
		"moving:1":     types.OCIImageIndex,

		"debian:minbase": types.OCIImageIndex,
	} {
		d := head(t, r.Addr, tag)
		if d.MediaType != want || d.Digest != digests[tag] {
			t.Errorf("%s: %s %s, want %s %s", tag, d.MediaType, d.Digest, want, digests[tag])
		}
	}
	moved, err := c.Move(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := head(t, r.Addr, "moving:1").Digest; got != moved || got == digests["moving:1"] {
		t.Errorf("moving:1 is %s, was %s, want %s", got, digests["moving:1"], moved)
	}
	for _, tag := range []string{"1", "2"} {
		if err := c.PushUnpublished(t.Context(), tag); err != nil {
			t.Error(err)
		}
	}
	if head(t, r.Addr, "unpublished:1").Digest == head(t, r.Addr, "unpublished:2").Digest {
		t.Error("unpublished:1 and unpublished:2 are the same image")
	}
	for range 2 {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	}
	if err := r.ping(t.Context()); err == nil {
		t.Error("the registry answers after Stop")
	}
}

// archive is a .tar.gz with one file.
func archive(t *testing.T) string {
	t.Helper()
	layer, err := image.OCI.Layer(gzip.BestSpeed, image.File{Path: "etc/debian_version", Data: []byte("12\n"), Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	content, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "debian.tar.gz")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func head(t *testing.T, registry, tag string) *v1.Descriptor {
	t.Helper()
	ref, err := name.NewTag(registry+"/library/"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(ref)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBigLayerIsOver100MB(t *testing.T) {
	img, err := Content{}.big()
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Layers[1].Size; got < 100e6 {
		t.Errorf("%d bytes", got)
	}
}
