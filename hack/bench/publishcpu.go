package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

const (
	// earlierEnv names the program pyrsia of an earlier build.
	earlierEnv = "PYRSIA_EARLIER"
	// publishRounds are the images that both builds publish, in turns.
	publishRounds = 9
)

// publishLayers are the layers of each image, in bytes: as an image of a language's
// tools has them, a few large ones and some that are one piece.
var publishLayers = []int{128 << 20, 64 << 20, 32 << 20, 3 << 20, 3 << 20, 2 << 20, 1 << 20, 1 << 20}

// benchPublishCPU measures the processor time that a publisher takes for each
// gigabyte, beside that of an earlier build, in turns: both copy the same images
// from one registry.
func benchPublishCPU(ctx context.Context, dir string) (_ []row, err error) {
	earlier := os.Getenv(earlierEnv)
	if earlier == "" {
		fmt.Fprintf(os.Stderr, "not measured: %s does not name the program pyrsia of an earlier build\n", earlierEnv)
		return nil, nil
	}
	registry, err := rig.DockerRegistry()
	if err != nil {
		return nil, err
	}
	r, err := rig.Start(ctx, dir, registry)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	old, err := r.StartPublisher(ctx, "earlier", earlier)
	if err != nil {
		return nil, err
	}
	builds := []*rig.Node{r.Publisher, old}
	costs := make([][]float64, len(builds)) // s/GB
	for round := range publishRounds {
		name := fmt.Sprintf("bytes%d:1", round)
		size, err := pushLayers(ctx, r, name, uint64(round))
		if err != nil {
			return nil, err
		}
		for turn := range builds {
			i := (round + turn) % len(builds)
			cost, err := publishCost(ctx, r, builds[i], name, size)
			if err != nil {
				return nil, err
			}
			costs[i] = append(costs[i], cost)
		}
	}
	cost, before := median(costs[0]), median(costs[1])
	return []row{{Name: "publish-cpu", Value: cost, Unit: "s/GB", Ratio: cost / before, target: "-",
		Against: fmt.Sprintf("%.4g s/GB of the earlier build, %d images each, in turns", before, publishRounds)}}, nil
}

// publishCost is the processor time in seconds for each gigabyte.
func publishCost(ctx context.Context, r *rig.Rig, n *rig.Node, image string, size int) (float64, error) {
	before, err := processCPU(n.PID())
	if err != nil {
		return 0, err
	}
	if _, _, err := r.PublishBy(ctx, n, image); err != nil {
		return 0, err
	}
	after, err := processCPU(n.PID())
	return (after - before) / (float64(size) / 1e9), err
}

// pushLayers pushes an image of layers that no other one has.
func pushLayers(ctx context.Context, r *rig.Rig, name string, seed uint64) (size int, err error) {
	random := rand.NewChaCha8([32]byte{byte(seed), 1})
	var layers []v1.Layer
	for _, n := range publishLayers {
		noise := make([]byte, n)
		if _, err := random.Read(noise); err != nil {
			return 0, err
		}
		layers = append(layers, static.NewLayer(noise, types.OCILayer))
		size += n
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		return 0, err
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return 0, err
	}
	return size, r.Push(ctx, name, img)
}
