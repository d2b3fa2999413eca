package testnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
)

// Image is what was pushed upstream.
type Image struct {
	Name     string // "alpine:3.20"
	Index    digest.Digest
	Manifest digest.Digest
	Config   digest.Digest
	Layers   []digest.Digest
	Size     int64    // of the layers
	Content  [][]byte // of the layers
}

// Repository is the name without the tag.
func (i Image) Repository() string { name, _, _ := strings.Cut(i.Name, ":"); return name }

// Blob is the path of a layer at a registry.
func (i Image) Blob(layer int) string {
	return "/v2/library/" + i.Repository() + "/blobs/" + i.Layers[layer].String()
}

// Env is a network with an upstream registry, a publisher and mirrors.
type Env struct {
	*Network
	*Ledger
	Dir      string
	Mirrors  []*Node
	Registry *upstream.Registry // at the test program
}

// NewEnv starts an upstream registry and a publisher in a new folder under
// dir; binaries are found by PYRSIA_BINARY and PYRSIA_DOCKER_REGISTRY.
func NewEnv(ctx context.Context, dir string, args ...string) (*Env, error) {
	return newEnv(ctx, New, dir, args)
}

// NewIPv6Env is NewEnv without IPv4.
func NewIPv6Env(ctx context.Context, dir string, args ...string) (*Env, error) {
	return newEnv(ctx, NewIPv6, dir, args)
}

func newEnv(ctx context.Context, network func() (*Network, error), dir string, args []string) (*Env, error) {
	binary, registry, err := Binaries()
	if err != nil {
		return nil, err
	}
	n, err := network()
	if err != nil {
		return nil, err
	}
	w := &Env{Network: n, Dir: dir}
	if w.Registry, err = upstream.Start(ctx, registry, filepath.Join(dir, "registry"), net.JoinHostPort(n.Gateway(), "5000")); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	h, err := n.Host("publisher")
	if err == nil {
		w.Ledger, err = NewPublisher(h, binary, dir, "http://"+w.Registry.Addr, args...)
	}
	if err == nil {
		err = w.Publisher.Up(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Binaries are the programs under test.
func Binaries() (pyrsia, registry string, err error) {
	pyrsia, registry = os.Getenv("PYRSIA_BINARY"), os.Getenv("PYRSIA_DOCKER_REGISTRY")
	if registry == "" {
		registry, _ = exec.LookPath("docker-registry")
	}
	if pyrsia == "" || registry == "" || os.Geteuid() != 0 {
		return "", "", errors.New("it needs root, and PYRSIA_BINARY and docker-registry: run 'make test-network' or 'make bench'")
	}
	return pyrsia, registry, nil
}

// AddMirror starts a mirror on a new host; without bootstrap it joins by the
// publisher.
func (w *Env) AddMirror(ctx context.Context, bootstrap []string, args ...string) (*Node, error) {
	m, err := w.NewMirror(bootstrap, args...)
	if err != nil {
		return nil, err
	}
	return m, m.Up(ctx)
}

// NewMirror prepares a mirror on a new host.
func (w *Env) NewMirror(bootstrap []string, args ...string) (*Node, error) {
	h, err := w.Host(fmt.Sprintf("mirror%d", len(w.Mirrors)+1))
	if err != nil {
		return nil, err
	}
	if bootstrap == nil {
		bootstrap = []string{w.Publisher.Address()}
	}
	m := w.Mirror(h, w.Dir, bootstrap, args...)
	w.Mirrors = append(w.Mirrors, m)
	return m, nil
}

// Push pushes an image of random layers of these sizes upstream.
func (w *Env) Push(ctx context.Context, image string, layers ...int64) (*Image, error) {
	return Push(ctx, w.Registry.Addr, image, layers...)
}

// Push pushes an image of random layers to a registry.
func Push(ctx context.Context, addr, image string, layers ...int64) (*Image, error) {
	out := &Image{Name: image}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Env: []string{"NAME=" + image}}})
	if err != nil {
		return nil, err
	}
	for _, size := range layers {
		data := make([]byte, size)
		if _, err := io.ReadFull(rand.Reader, data); err != nil {
			return nil, err
		}
		layer := static.NewLayer(data, types.OCILayer)
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
		out.Layers = append(out.Layers, digest.FromBytes(data))
		out.Content = append(out.Content, data)
		out.Size += size
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	ref, err := name.NewTag(addr+"/library/"+image, name.Insecure)
	if err != nil {
		return nil, err
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx)); err != nil {
		return nil, err
	}
	i, err1 := index.Digest()
	m, err2 := img.Digest()
	c, err3 := img.ConfigName()
	out.Index, out.Manifest, out.Config = digest.Digest(i.String()), digest.Digest(m.String()), digest.Digest(c.String())
	return out, errors.Join(err1, err2, err3)
}

// Close ends all that the environment has started.
func (w *Env) Close() error {
	var errs []error
	for _, m := range w.Mirrors {
		errs = append(errs, m.Kill())
	}
	if w.Ledger != nil {
		errs = append(errs, w.Publisher.Kill())
		w.control.Close()
	}
	return errors.Join(append(errs, w.Registry.Stop(), w.Network.Close())...)
}
