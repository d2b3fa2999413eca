package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

const (
	lazyPrefix  = "lazy-"
	lazyContent = "content-0" // the file in an image
	// tocAnnotation is where stargz-snapshotter finds the digest of a layer's table of contents.
	tocAnnotation = "containerd.io/snapshot/stargz/toc.digest"
)

// pushLazy makes an image whose layer can be mounted before it is there, and pushes it.
func (b *bench) pushLazy(name string, size int64) {
	b.t.Helper()
	programs, err := rig.Script("build.sh", "stargz")
	if err != nil {
		b.t.Fatal(err)
	}
	plain, err := image.OCI.Layer(0, image.File{Path: lazyContent, Data: noise(name, size), Mode: 0o644})
	if err != nil {
		b.t.Fatal(err)
	}
	content, err := plain.Uncompressed()
	if err != nil {
		b.t.Fatal(err)
	}
	data, err := io.ReadAll(content)
	dir := b.t.TempDir()
	from, to := filepath.Join(dir, "tar"), filepath.Join(dir, "layer")
	if err := errors.Join(err, os.WriteFile(from, data, 0o644)); err != nil {
		b.t.Fatal(err)
	}
	toc, err := exec.CommandContext(b.t.Context(), filepath.Join(programs, "bin", "estargz"), from, to).Output()
	if err != nil {
		b.t.Fatalf("estargz: %v", err)
	}
	layer, err := tarball.LayerFromFile(to, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		b.t.Fatal(err)
	}
	img, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		&v1.ConfigFile{Architecture: "amd64", OS: "linux", Config: v1.Config{Cmd: []string{"true"}}, RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, Annotations: map[string]string{tocAnnotation: strings.TrimSpace(string(toc))}})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	d, err := layer.Digest()
	if err := errors.Join(err, b.rig.Push(b.t.Context(), name, img)); err != nil {
		b.t.Fatal(err)
	}
	b.layers[name] = digest.Digest(d.String())
}

// stargz starts a containerd whose CRI has stargz-snapshotter mount the layers, which
// finds registries by config: that has places for certs.d and for the mirror. A pull
// includes that all of the image is read.
func (b *bench) stargz(t *testing.T, config string) puller {
	t.Helper()
	if b.digests[lazyPrefix+"single:1"] == "" {
		b.publishForPlatforms(lazyPrefix, b.pushLazy)
	}
	programs, err := rig.Script("build.sh", "stargz")
	if err != nil {
		t.Fatal(err)
	}
	m := b.newCRIDaemon(t, b.env.newer, lazyCRIConfig)
	dir := filepath.Join(m.dir, "stargz")
	socket, file := filepath.Join(dir, "s.sock"), filepath.Join(dir, "config.toml")
	containerdConfig, err := os.ReadFile(filepath.Join(m.dir, "config.toml"))
	if err := errors.Join(err, os.Mkdir(dir, 0o755), os.WriteFile(file, fmt.Appendf(nil, config, m.certs, b.wire.addr), 0o644),
		os.WriteFile(filepath.Join(m.dir, "config.toml"), fmt.Appendf(containerdConfig, "[proxy_plugins.stargz]\n  type = \"snapshot\"\n  address = %q\n", socket), 0o644)); err != nil {
		t.Fatal(err)
	}
	pid := b.env.daemon(t, dir, socket, "sh", "-c", `mount -t tmpfs none /run && exec "$@"`, "sh", filepath.Join(programs, "bin", "stargz"), filepath.Join(dir, "root"), socket, file)
	m.start(t, b.env.inside(context.Background(), pid, m.dir, "sh", m.args(`exec "$@"`)...))
	mounts := 0
	return func(ctx context.Context, ref string) (string, error) {
		shows, err := m.pull(ctx, ref)
		if err != nil {
			return "", err
		}
		mounts++
		at := filepath.Join(m.dir, fmt.Sprintf("mount-%d", mounts))
		if err := os.Mkdir(at, 0o755); err != nil {
			return "", err
		}
		ctr := b.env.inside(ctx, pid, m.dir, filepath.Join(filepath.Dir(m.program), "ctr"), "--address", m.socket, "--namespace", "k8s.io", "images", "mount", "--snapshotter", "stargz", ref, at)
		if out, err := ctr.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		var errs bytes.Buffer
		cat := b.env.inside(ctx, pid, m.dir, "cat", filepath.Join(at, lazyContent))
		cat.Stderr = &errs
		content, err := cat.Output()
		if err != nil {
			return "", errors.New(strings.ReplaceAll(errs.String(), at, ""))
		}
		name, _, _ := strings.Cut(filepath.Base(ref), "@")
		if !strings.Contains(name, ":") {
			name += ":1"
		}
		if !bytes.Equal(content, noise(name, int64(len(content)))) {
			return "", fmt.Errorf("%d bytes of other content", len(content))
		}
		return shows, nil
	}
}

// lazyCRIConfig has CRI name images and layers to the snapshotter, which the transfer
// service does not.
const lazyCRIConfig = `version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'stargz'
  disable_snapshot_annotations = false
  use_local_image_pull = true
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %q
`
