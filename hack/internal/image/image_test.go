package image

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func build(t *testing.T, f Format) v1.ImageIndex {
	t.Helper()
	var images []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		layer, err := f.Layer(gzip.DefaultCompression,
			File{Path: "bin/tool", Data: []byte("for " + arch), Mode: 0o755},
			File{Path: "bin/alias", Link: "tool", Mode: 0o777})
		if err != nil {
			t.Fatal(err)
		}
		img, err := f.Image(v1.Platform{OS: "linux", Architecture: arch}, v1.Config{Entrypoint: []string{"/bin/tool"}}, layer)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	index, err := f.Index(map[string]string{"org.opencontainers.image.title": "tool"}, images...)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func TestSameInputGivesSameDigest(t *testing.T) {
	for name, f := range map[string]Format{"OCI": OCI, "Docker": Docker} {
		t.Run(name, func(t *testing.T) {
			a, errA := build(t, f).Digest()
			b, errB := build(t, f).Digest()
			if errA != nil || errB != nil || a != b {
				t.Errorf("two builds: %s %v, %s %v", a, errA, b, errB)
			}
		})
	}
}

func TestFormatsKeepTheirMediaTypes(t *testing.T) {
	tests := map[string]struct {
		format Format
		want   []types.MediaType // index, manifest, config, layer
	}{
		"OCI": {OCI, []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer}},
		"Docker": {Docker, []types.MediaType{types.DockerManifestList, types.DockerManifestSchema2,
			types.DockerConfigJSON, types.DockerLayer}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			index := build(t, tt.format)
			m, err := index.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			img, err := index.Image(m.Manifests[1].Digest)
			if err != nil {
				t.Fatal(err)
			}
			manifest, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			got := []types.MediaType{m.MediaType, manifest.MediaType, manifest.Config.MediaType, manifest.Layers[0].MediaType}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if got := m.Manifests[1].ArtifactType; got != "" {
				t.Errorf("artifactType %q", got)
			}
			if p := m.Manifests[1].Platform; p == nil || p.String() != "linux/arm64" {
				t.Errorf("platform %v", p)
			}
		})
	}
}

func TestArchiveReadsBack(t *testing.T) {
	t.Run("OCI", func(t *testing.T) { archiveReadsBack(t, OCI) })
	t.Run("Docker", func(t *testing.T) { archiveReadsBack(t, Docker) })
}

func archiveReadsBack(t *testing.T, f Format) {
	const ref = "example.com/tool:v1"
	dir := t.TempDir()
	file := filepath.Join(dir, "tool.tar")
	index := build(t, f)
	if err := WriteArchive(file, ref, index); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	docker, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(docker); err != nil {
		t.Errorf("as a docker archive: %v", err)
	}

	untar(t, file, filepath.Join(dir, "layout"))
	l, err := layout.ImageIndexFromPath(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("index.json: %+v, %v", m, err)
	}
	want, err := index.Digest()
	if err != nil || m.Manifests[0].Digest != want {
		t.Errorf("digest %s, want %s, %v", m.Manifests[0].Digest, want, err)
	}
	for _, k := range []string{"org.opencontainers.image.ref.name", "io.containerd.image.name"} {
		if got := m.Manifests[0].Annotations[k]; got != ref {
			t.Errorf("annotation %s: %q", k, got)
		}
	}
	if err := validate.Index(l); err != nil {
		t.Errorf("as an OCI layout: %v", err)
	}
}

func untar(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := extract(f, dir); err != nil {
		t.Fatal(err)
	}
}
