package clients

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// startPublisher starts a publisher and its upstream, but no mirror.
func startPublisher(t *testing.T, args ...string) *bench {
	t.Helper()
	w := findPrograms(t)
	registry, err := rig.DockerRegistry()
	if err != nil {
		t.Fatal(err)
	}
	r, err := rig.Start(t.Context(), t.TempDir(), registry, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	w.hub = startHub(t, r.Registry.Addr)
	return &bench{t: t, env: w, rig: r, digests: map[string]digest.Digest{}, layers: map[string]digest.Digest{}}
}

func start(t *testing.T) *bench {
	t.Helper()
	b := startPublisher(t)
	var err error
	if b.mirror, err = b.rig.StartMirror(t.Context(), "mirror"); err != nil {
		t.Fatal(err)
	}
	if b.other, err = b.rig.StartMirror(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	b.wire = startWire(t, b.mirror.Mirror)
	return b
}

// publishAll makes and publishes the images, and corrupts the second mirror.
func (b *bench) publishAll(clients []client) {
	b.t.Helper()
	b.publish("single:1", image.OCI, 1, 1<<20)
	b.publish("pinned:1", image.OCI, 1, 1<<20)
	b.publish("multi:1", image.OCI, 2, 1<<20)
	b.publish("list:1", image.Docker, 2, 1<<20)
	b.publish("schema2:1", image.Docker, 1, 1<<20)
	for _, big := range []string{"large:1", "cut:1", "restart:1"} {
		b.publish(big, image.OCI, 1, bigLayer)
	}
	b.publish("disk:1", image.OCI, 1, 9<<20)
	b.publish("gone:1", image.OCI, 1, 1<<20)
	b.revoke("revoked:1")
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	for _, c := range clients {
		name := "peer-" + b.slug(c) + ":1"
		b.publish(name, image.OCI, 1, 9<<20)
		b.fetch(b.other, name)
		if err := flipByte(b.other.Blob(b.layers[name].Encoded())); err != nil {
			b.t.Fatal(err)
		}
	}
	b.fetch(b.mirror, "disk:1")
}

func (b *bench) slug(c client) string {
	return strings.NewReplacer(" ", "-", ".", "-").Replace(c.name)
}

// push makes an image for this platform, or for two, and pushes it.
func (b *bench) push(name string, f image.Format, platforms int, size int64) {
	b.t.Helper()
	content := noise(name, size)
	var images []v1.Image
	for i, arch := range []string{"amd64", "arm64"}[:platforms] {
		layer, err := f.Layer(0, image.File{Path: fmt.Sprintf("content-%d", i), Data: content, Mode: 0o644})
		if err != nil {
			b.t.Fatal(err)
		}
		img, err := f.Image(v1.Platform{OS: "linux", Architecture: arch}, v1.Config{Cmd: []string{"true"}}, layer)
		if err != nil {
			b.t.Fatal(err)
		}
		d, err := layer.Digest()
		if err != nil {
			b.t.Fatal(err)
		}
		b.layers[name] = digest.Digest(d.String())
		images = append(images, img)
	}
	var pushed remote.Taggable = images[0]
	if platforms > 1 {
		index, err := f.Index(nil, images...)
		if err != nil {
			b.t.Fatal(err)
		}
		pushed = index
	}
	if err := b.rig.Push(b.t.Context(), name, pushed); err != nil {
		b.t.Fatal(err)
	}
}

// noise is what an image has in its layer.
func noise(name string, size int64) []byte {
	out := make([]byte, size)
	seed := [32]byte{}
	copy(seed[:], name)
	_, _ = rand.NewChaCha8(seed).Read(out) // it never fails
	return out
}

func (b *bench) publish(name string, f image.Format, platforms int, size int64) {
	b.t.Helper()
	b.push(name, f, platforms, size)
	b.record(name, name)
}

// record has the ledger record what was pushed, as an image of Docker Hub or of another
// registry, and waits until the mirrors know.
func (b *bench) record(name, image string) {
	b.t.Helper()
	d, height, err := b.rig.Publish(b.t.Context(), image)
	if err != nil {
		b.t.Fatal(err)
	}
	b.digests[name] = d
	for _, m := range []*rig.Node{b.mirror, b.other} {
		if err := m.AwaitBlock(b.t.Context(), height); err != nil {
			b.t.Fatal(err)
		}
	}
}

// revoke publishes an image and withdraws it.
func (b *bench) revoke(name string) {
	b.t.Helper()
	b.publish(name, image.OCI, 1, 1<<10)
	_, height, err := b.rig.Publish(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	by, err := b.rig.Revoke(b.t.Context(), height, "contains malware")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range []*rig.Node{b.mirror, b.other} {
		if err := m.AwaitBlock(b.t.Context(), by); err != nil {
			b.t.Fatal(err)
		}
	}
}
