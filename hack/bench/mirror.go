package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

const (
	bigBlob   = 200 << 20
	smallBlob = 415
	manyBlobs = 100_000
)

func mirrorBenchmarks() []benchmark {
	return []benchmark{{[]string{
		"mirror-blob", "mirror-blob-registry", "mirror-manifests", "mirror-small-blobs", "mirror-rss", "mirror-start",
	}, benchMirror}}
}

// mirrorBench is the mirror and what it is compared with.
type mirrorBench struct {
	*rig.Rig
	mirror     *rig.Node
	big, small digest.Digest
}

func benchMirror(ctx context.Context, dir string) (_ []row, err error) {
	registry, err := rig.DockerRegistry()
	if err != nil {
		return nil, err
	}
	r, err := rig.Start(ctx, dir, registry)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	b := &mirrorBench{Rig: r}
	if err := b.publish(ctx); err != nil {
		return nil, err
	}
	if b.mirror, err = r.StartMirror(ctx, "mirror"); err != nil {
		return nil, err
	}
	if err := b.mirror.AwaitBlock(ctx, 0); err != nil {
		return nil, err
	}
	var rows []row
	for _, part := range []func(context.Context) ([]row, error){b.memory, b.blobs, b.requests, b.start} {
		got, err := part(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// publish publishes one image with a big and a small layer.
func (b *mirrorBench) publish(ctx context.Context) error {
	noise := make([]byte, bigBlob)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		return err
	}
	b.big, b.small = digest.FromBytes(noise), digest.FromBytes(noise[:smallBlob])
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer(noise, types.OCILayer), static.NewLayer(noise[:smallBlob], types.OCILayer))
	if err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}); err != nil {
		return err
	}
	if err := b.Push(ctx, "bench:1", img); err != nil {
		return err
	}
	_, _, err = b.Publish(ctx, "bench:1")
	return err
}

const (
	manifestPath = "/v2/library/bench/manifests/1"
	blobPath     = "/v2/library/bench/blobs/"
)

// memory has 50 clients pull the big blob in parallel: first while it comes
// from the publisher, then from the disk.
func (b *mirrorBench) memory(ctx context.Context) ([]row, error) {
	for range 2 {
		if _, err := transferAll(ctx, b.mirror.Mirror, blobPath+b.big.String(), 50, 1); err != nil {
			return nil, err
		}
	}
	rss, err := processPeakRSS(strconv.Itoa(b.mirror.PID()))
	if err != nil {
		return nil, err
	}
	return []row{{Name: "mirror-rss", Value: rss / 1e6, Unit: "MB", Ratio: rss / 150e6, target: "< 150 MB",
		Against: "the target; peak under 50 pulls of 200 MB at once, from a peer and then from the disk"}}, nil
}

// blobs compares the big blob's throughput, in turns, and what it costs the
// servers.
func (b *mirrorBench) blobs(ctx context.Context) ([]row, error) {
	raw, err := startRaw(ctx, b.mirror.Blob(b.big.Encoded()))
	if err != nil {
		return nil, err
	}
	defer raw.stop()
	servers := []struct {
		addr, path string
		pid        int
		rates, cpu []float64 // GB/s, s/GB
	}{
		{addr: b.mirror.Mirror, path: blobPath + b.big.String(), pid: b.mirror.PID()},
		{addr: raw.addr, path: "/", pid: raw.pid},
		{addr: b.Registry.Addr, path: blobPath + b.big.String(), pid: b.Registry.PID()},
	}
	const connections, each, gigabytes = 2, 4, 2 * 4 * bigBlob / 1e9
	for range 7 {
		for i := range servers {
			s := &servers[i]
			before, err := processCPU(s.pid)
			if err != nil {
				return nil, err
			}
			took, err := transferAll(ctx, s.addr, s.path, connections, each)
			if err != nil {
				return nil, err
			}
			after, err := processCPU(s.pid)
			if err != nil {
				return nil, err
			}
			s.rates = append(s.rates, gigabytes/took.Seconds())
			s.cpu = append(s.cpu, (after-before)/gigabytes)
		}
	}
	against := func(what string, i int) string {
		return fmt.Sprintf("%s: %.2f GB/s at %.2f CPU s/GB, mirror %.2f GB/s at %.2f CPU s/GB",
			what, median(servers[i].rates), median(servers[i].cpu), median(servers[0].rates), median(servers[0].cpu))
	}
	sendfile := median(servers[0].rates) / median(servers[1].rates)
	registry := median(servers[0].rates) / median(servers[2].rates)
	return []row{
		{Name: "mirror-blob", Value: sendfile, Unit: "x", Ratio: sendfile, target: ">= 0.9 x",
			Against: against("http.ServeContent of the same file, clients that discard", 1)},
		{Name: "mirror-blob-registry", Value: registry, Unit: "x", Ratio: registry, target: ">= 1.5 x",
			Against: against("docker-registry", 2)},
	}, nil
}

// requests compares how many small answers come per second, in turns.
func (b *mirrorBench) requests(ctx context.Context) ([]row, error) {
	var rows []row
	for _, what := range []struct {
		name, what, path, target string
		want                     float64
	}{
		{"mirror-manifests", "manifests by tag", manifestPath, ">= 8 x", 8},
		{"mirror-small-blobs", "blobs of 415 B", blobPath + b.small.String(), ">= 10 x", 10},
	} {
		var ours, theirs []float64
		for range 5 {
			for addr, rates := range map[string]*[]float64{b.mirror.Mirror: &ours, b.Registry.Addr: &theirs} {
				rate, err := requestRate(ctx, addr, what.path)
				if err != nil {
					return nil, err
				}
				*rates = append(*rates, rate)
			}
		}
		ratio := median(ours) / median(theirs)
		rows = append(rows, row{Name: what.name, Value: ratio, Unit: "x", Ratio: ratio, target: what.target,
			Against: fmt.Sprintf("docker-registry, 16 connections: %.0f/s, mirror %.0f/s (%s)", median(theirs), median(ours), what.what)})
	}
	return rows, nil
}

// start measures how long a mirror with many blobs takes to start, until it
// is ready and hands out a manifest.
func (b *mirrorBench) start(ctx context.Context) ([]row, error) {
	if err := b.mirror.Stop(); err != nil {
		return nil, err
	}
	for i := range manyBlobs {
		content := fmt.Appendf(nil, "blob %d\n", i)
		sum := sha256.Sum256(content)
		if err := os.WriteFile(b.mirror.Blob(hex.EncodeToString(sum[:])), content, 0o644); err != nil {
			return nil, err
		}
	}
	var times []float64
	for range 5 {
		begin := time.Now()
		if err := errors.Join(b.mirror.Start(ctx), b.mirror.AwaitReady(ctx)); err != nil {
			return nil, err
		}
		if _, err := transferAll(ctx, b.mirror.Mirror, manifestPath, 1, 1); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin).Seconds())
		if err := b.mirror.Stop(); err != nil {
			return nil, err
		}
	}
	s := median(times)
	return []row{{Name: "mirror-start", Value: s, Unit: "s", Ratio: s / 2, target: "< 2 s",
		Against: "the target; from exec to the first manifest, with 100,000 blobs"}}, nil
}
