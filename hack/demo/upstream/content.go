package upstream

import (
	"compress/gzip"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// BigLayer is the size in bytes of the layer that makes "big" big.
const BigLayer = 104 << 20

// Content makes and pushes images that run on this machine's architecture.
type Content struct {
	Registry string // host:port
	Busybox  []byte // a static busybox for this machine
	// Debian is a .tar.gz with a root file system for this machine, as
	// debootstrap makes it; none is pushed if it is empty.
	Debian string
}

// PushAll pushes every image of the demo and returns their digests by name
// and tag ("busybox:1.35"): an OCI index, a Docker manifest list, a single
// manifest with a layer over 100 MB, an image whose tag will move, and Debian.
func (c Content) PushAll(ctx context.Context) (map[string]v1.Hash, error) {
	type named struct {
		name string
		make func() (remote.Taggable, error)
	}
	digests := map[string]v1.Hash{}
	images := []named{
		{"busybox:1.35", func() (remote.Taggable, error) { return c.index(image.OCI, "sh") }},
		{"hello:1", func() (remote.Taggable, error) {
			return c.index(image.Docker, "echo", "Hello from an image that the ledger vouches for.")
		}},
		{"big:1", func() (remote.Taggable, error) { return c.big() }},
		{"moving:1", func() (remote.Taggable, error) { return c.index(image.OCI, "echo", "published content") }},
	}
	if c.Debian != "" {
		images = append(images, named{"debian:minbase", func() (remote.Taggable, error) { return c.debian() }})
	}
	for _, img := range images {
		made, err := img.make()
		if err != nil {
			return nil, fmt.Errorf("making %s: %w", img.name, err)
		}
		if digests[img.name], err = c.push(ctx, img.name, made); err != nil {
			return nil, err
		}
	}
	return digests, nil
}

// Move makes the tag "moving:1" point to other content.
func (c Content) Move(ctx context.Context) (v1.Hash, error) {
	moved, err := c.index(image.OCI, "echo", "content that nobody published")
	if err != nil {
		return v1.Hash{}, fmt.Errorf("making moving:1: %w", err)
	}
	return c.push(ctx, "moving:1", moved)
}

// PushUnpublished pushes an image "unpublished" that no OfficialImageSet names,
// which is another one under each tag.
func (c Content) PushUnpublished(ctx context.Context, tag string) error {
	img, err := c.index(image.OCI, "echo", "content that nobody asked for:", tag)
	if err != nil {
		return fmt.Errorf("making unpublished:%s: %w", tag, err)
	}
	_, err = c.push(ctx, "unpublished:"+tag, img)
	return err
}

func (c Content) push(ctx context.Context, tag string, made remote.Taggable) (v1.Hash, error) {
	ref, err := name.NewTag(c.Registry+"/library/"+tag, name.Insecure)
	if err != nil {
		return v1.Hash{}, err
	}
	switch t := made.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, t, remote.WithContext(ctx))
	case v1.Image:
		err = remote.Write(ref, t, remote.WithContext(ctx))
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("pushing %s: %w", ref, err)
	}
	return made.(interface{ Digest() (v1.Hash, error) }).Digest()
}

// index makes an image of busybox for two platforms.
func (c Content) index(f image.Format, command ...string) (v1.ImageIndex, error) {
	layer, err := f.Layer(gzip.BestSpeed, c.files()...)
	if err != nil {
		return nil, err
	}
	return platforms(f, layer, v1.Config{Cmd: command, Env: env})
}

// debian makes an image of the root file system for two platforms.
func (c Content) debian() (v1.ImageIndex, error) {
	layer, err := tarball.LayerFromFile(c.Debian, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("reading Debian's root file system: %w", err)
	}
	return platforms(image.OCI, layer, v1.Config{Cmd: []string{"bash"}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}})
}

// platforms makes an index of this machine's platform, with the layer, and of
// another one, which holds a note in place of programs.
func platforms(f image.Format, layer v1.Layer, config v1.Config) (v1.ImageIndex, error) {
	note, err := f.Layer(gzip.BestSpeed, image.File{Path: "README", Data: []byte("made for " + runtime.GOARCH + "\n"), Mode: 0o644})
	if err != nil {
		return nil, err
	}
	var images []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		content := note
		if arch == runtime.GOARCH {
			content = layer
		}
		img, err := f.Image(v1.Platform{OS: "linux", Architecture: arch}, config, content)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return f.Index(nil, images...)
}

func (c Content) big() (v1.Image, error) {
	noise := make([]byte, BigLayer)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		return nil, err
	}
	tools, err := image.OCI.Layer(gzip.BestSpeed, c.files()...)
	if err != nil {
		return nil, err
	}
	big, err := image.OCI.Layer(gzip.NoCompression, image.File{Path: "noise", Data: noise, Mode: 0o644})
	if err != nil {
		return nil, err
	}
	return image.OCI.Image(v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		v1.Config{Cmd: []string{"sh"}, Env: env}, tools, big)
}

var env = []string{"PATH=/bin"}

// files are busybox and the names under which it is called.
func (c Content) files() []image.File {
	files := []image.File{{Path: "bin/busybox", Data: c.Busybox, Mode: 0o755}}
	for _, applet := range []string{"cat", "echo", "ls", "sh", "sha256sum", "sleep", "uname", "wget"} {
		files = append(files, image.File{Path: "bin/" + applet, Link: "busybox", Mode: 0o777})
	}
	return files
}
