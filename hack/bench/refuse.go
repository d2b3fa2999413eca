package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// oneLayer is an image with one layer of so many bytes.
func oneLayer(size int64, seed byte) (v1.Image, digest.Digest, error) {
	noise := make([]byte, size)
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(noise); err != nil {
		return nil, "", err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(noise, types.OCILayer))
	if err != nil {
		return nil, "", err
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	return img, digest.FromBytes(noise), err
}

func refuseBenchmarks() []benchmark {
	return []benchmark{
		{[]string{"refuse-head-tag", "refuse-get-tag", "refuse-blob", "refuse-pull"}, func(ctx context.Context, dir string) ([]row, error) {
			return benchRefusals(ctx, dir, "", "the holder has ended", func(n *rig.Node) error { n.Kill(); return nil })
		}},
		{[]string{"refuse-head-tag-hung", "refuse-get-tag-hung", "refuse-blob-hung", "refuse-pull-hung"}, func(ctx context.Context, dir string) ([]row, error) {
			return benchRefusals(ctx, dir, "-hung", "the holder hangs", func(n *rig.Node) error { return syscall.Kill(n.PID(), syscall.SIGSTOP) })
		}},
	}
}

// benchRefusals measures how long a mirror takes to refuse content that no
// reachable node has, with a new image each time because it may remember failures.
func benchRefusals(ctx context.Context, dir, suffix, what string, lose func(*rig.Node) error) (_ []row, err error) {
	registry, err := rig.DockerRegistry()
	if err != nil {
		return nil, err
	}
	r, err := rig.Start(ctx, dir, registry)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = syscall.Kill(r.Publisher.PID(), syscall.SIGCONT) // it may have ended
		err = errors.Join(err, r.Stop())
	}()
	const images = 3
	layers := make([]digest.Digest, images)
	digests := make([]digest.Digest, images)
	var height int64
	for i := range images {
		name := fmt.Sprintf("gone%d:1", i)
		img, layer, err := oneLayer(2<<20, byte(i))
		if err != nil {
			return nil, err
		}
		if err := r.Push(ctx, name, img); err != nil {
			return nil, err
		}
		if digests[i], height, err = r.Publish(ctx, name); err != nil {
			return nil, err
		}
		layers[i] = layer
	}
	m, err := r.StartMirror(ctx, "mirror")
	if err != nil {
		return nil, err
	}
	if err := m.AwaitBlock(ctx, height); err != nil {
		return nil, err
	}
	// Its piece list and manifest are on the mirror, and its layer is not.
	if err := rig.Get(ctx, "http://"+m.Mirror+"/v2/library/gone2/manifests/1"); err != nil {
		return nil, err
	}
	if err := lose(r.Publisher); err != nil {
		return nil, err
	}
	time.Sleep(time.Second) // an end is noticed immediately
	ask := func(method, path string) (took float64, status int, err error) {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+m.Mirror+"/v2/library/"+path+"?ns=docker.io", nil)
		if err != nil {
			return 0, 0, err
		}
		begin := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return time.Since(begin).Seconds(), resp.StatusCode, errors.Join(err, resp.Body.Close())
	}
	seconds := func(name, target string, value, bound float64, detail string) row {
		return row{Name: name + suffix, Value: value, Unit: "s", Ratio: value / bound, target: target, Against: "the target; " + what + ": " + detail}
	}
	head, headStatus, err1 := ask(http.MethodHead, "gone0/manifests/1")
	get, getStatus, err2 := ask(http.MethodGet, "gone0/manifests/1")
	blob, blobStatus, err3 := ask(http.MethodGet, "gone2/blobs/"+layers[2].String())
	// As a strict containerd: the mirror is host and server, and each is asked.
	pull, status, err4 := ask(http.MethodHead, "gone1/manifests/1")
	path := "gone1/manifests/1"
	method := http.MethodHead
	tries := 1
	if status == http.StatusOK {
		path, method, tries = "gone1/manifests/"+digests[1].String(), http.MethodGet, 2
	}
	for range tries {
		more, _, err := ask(method, path)
		pull, err4 = pull+more, errors.Join(err4, err)
	}
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	return []row{
		seconds("refuse-head-tag", "< 0.1 s", head, .1, fmt.Sprintf("HEAD by tag, %d", headStatus)),
		seconds("refuse-get-tag", "< 3 s", get, 3, fmt.Sprintf("GET by tag, %d", getStatus)),
		seconds("refuse-blob", "< 3 s", blob, 3, fmt.Sprintf("GET of a layer of a known manifest, %d", blobStatus)),
		seconds("refuse-pull", "< 6 s", pull, 6, "all requests of a strict containerd"),
	}, nil
}
