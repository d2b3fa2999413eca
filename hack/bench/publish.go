package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	missingTags   = 20
	corruptTags   = 5
	movedTags     = 200
	throttleEvery = 4000 // requests
	resolveAtOnce = 16   // as the operator does
	publishAtOnce = 64
)

func publishBenchmarks() []benchmark {
	return []benchmark{{rows: []string{"publish-all", "publish-node-rss", "publish-requests", "publish-again", "publish-moved"}, run: publishAll}}
}

// publishAll publishes the whole list of official images from an upstream that
// limits, fails and lies, then again with nothing changed, then with moved tags.
func publishAll(ctx context.Context, dir string) ([]row, error) {
	library := os.Getenv(upstreamtest.OfficialEnv)
	if library == "" {
		fmt.Fprintf(os.Stderr, "not measured: %s does not name a checkout of docker-library/official-images\n", upstreamtest.OfficialEnv)
		return nil, nil
	}
	o, err := upstreamtest.LoadOfficial(library, missingTags, corruptTags)
	if err != nil {
		return nil, err
	}
	o.Trouble(throttleEvery)
	server := httptest.NewServer(o)
	defer server.Close()
	p, err := startPublisher(ctx, dir, server.URL)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	d := &driver{publisher: p, official: o, current: map[string]string{}}
	selection := control.Selection{Catalog: &control.Catalog{Archive: &control.Archive{URL: server.URL + "/catalog.tar.gz", SHA256: o.SHA256()}}}
	listed, err := p.client.List(ctx, control.ListRequest{Selection: selection})
	if err != nil {
		return nil, err
	}
	if len(listed.Images) != len(o.Tags) || len(listed.Problems) > 0 {
		return nil, fmt.Errorf("the publisher lists %d images with %d problems, there are %d", len(listed.Images), len(listed.Problems), len(o.Tags))
	}
	return d.passes(ctx, listed.Images)
}

// driver asks a publisher as the operator does.
type driver struct {
	publisher *publisher
	official  *upstreamtest.Official
	current   map[string]string // digest of each published image
}

func (d *driver) passes(ctx context.Context, images []string) ([]row, error) {
	start := time.Now()
	failed, err := d.pass(ctx, images)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	if err := d.check(failed, len(images)-missingTags-corruptTags); err != nil {
		return nil, err
	}
	first := d.official.Counts()
	rss, err := d.publisher.peakRSS()
	if err != nil {
		return nil, err
	}
	// A tag's own requests are its HEAD; what is new comes once for each digest.
	perTag := float64(first.Head+first.Manifests+first.Blobs+first.Referrers) / float64(len(images))

	start = time.Now()
	if _, err = d.pass(ctx, images); err != nil {
		return nil, err
	}
	again := time.Since(start)
	second := d.official.Counts()
	if fetched := second.Manifests - first.Manifests; fetched > 0 || d.publisher.blocks != len(images)-missingTags-corruptTags {
		return nil, fmt.Errorf("with nothing changed %d manifests were fetched", fetched)
	}
	d.official.Move(movedTags)
	before := d.publisher.blocks
	start = time.Now()
	if failed, err = d.pass(ctx, images); err != nil {
		return nil, err
	}
	moved := time.Since(start)
	if got := d.publisher.blocks - before; got != movedTags {
		return nil, fmt.Errorf("%d tags moved, %d blocks were published (%d failures)", movedTags, got, len(failed))
	}
	against := fmt.Sprintf("%d tags from an upstream on loopback", len(images))
	return []row{
		{Name: "publish-all", Value: took.Seconds(), Unit: "s", Against: against, Ratio: float64(len(images)) / took.Seconds(), target: "-"},
		{Name: "publish-node-rss", Value: rss / 1e6, Unit: "MB", Against: against, Ratio: rss / 1e6 / float64(len(images)), target: "-"},
		{Name: "publish-requests", Value: perTag, Unit: "requests/tag", Against: fmt.Sprintf("%.2f new contents per tag, and 1 HEAD", perTag-float64(first.Head)/float64(len(images))), Ratio: float64(first.Head) / float64(len(images)), target: "1 HEAD + new"},
		{Name: "publish-again", Value: again.Seconds(), Unit: "s", Against: fmt.Sprintf("%d HEADs, 0 blocks", second.Head-first.Head), Ratio: took.Seconds() / again.Seconds(), target: "-"},
		{Name: "publish-moved", Value: moved.Seconds(), Unit: "s", Against: fmt.Sprintf("%d moved tags, %d blocks", movedTags, movedTags), Ratio: took.Seconds() / moved.Seconds(), target: "-"},
	}, nil
}

// pass resolves all images, and publishes those whose digest is new. It
// returns the reasons of those that failed.
func (d *driver) pass(ctx context.Context, images []string) (map[string]control.Reason, error) {
	failed := map[string]control.Reason{}
	var todo []control.PublishRequest
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(resolveAtOnce)
	for _, image := range images {
		group.Go(func() error {
			resp, err := retry(groupCtx, func() (*control.ResolveResponse, error) {
				return d.publisher.client.Resolve(groupCtx, control.ResolveRequest{Image: image})
			})
			mu.Lock()
			defer mu.Unlock()
			if refusal, ok := errors.AsType[*control.Error](err); ok {
				failed[image] = refusal.Reason
				return nil
			}
			if err == nil && d.current[image] != resp.Digest {
				todo = append(todo, control.PublishRequest{Image: image, Digest: resp.Digest})
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.SetLimit(publishAtOnce)
	for _, req := range todo {
		group.Go(func() error {
			block, err := d.publish(groupCtx, req)
			mu.Lock()
			defer mu.Unlock()
			if refusal, ok := errors.AsType[*control.Error](err); ok {
				failed[req.Image] = refusal.Reason
				return nil
			}
			if err != nil {
				return err
			}
			d.current[req.Image] = string(block.Artifact.Digest)
			d.publisher.blocks = max(d.publisher.blocks, int(block.Height)+1)
			return nil
		})
	}
	return failed, group.Wait()
}

// publish has an image published, and verifies its block.
func (d *driver) publish(ctx context.Context, req control.PublishRequest) (*ledger.VerifiedBlock, error) {
	for {
		resp, err := retry(ctx, func() (*control.PublishResponse, error) { return d.publisher.client.Publish(ctx, req) })
		if err != nil {
			return nil, err
		}
		if resp.Block == nil {
			continue // it waits up to ten seconds itself
		}
		block, err := ledger.VerifyBlock(d.publisher.verifier, []byte(resp.Block.Entry), []byte(resp.Block.Proof))
		if err == nil && (block.Artifact.Artifact != req.Image || string(block.Artifact.Digest) != req.Digest) {
			err = fmt.Errorf("block %d is about %s", block.Height, block.Artifact.Artifact)
		}
		return block, err
	}
}

// retry goes on while the publisher asks to come again.
func retry[T any](ctx context.Context, do func() (*T, error)) (*T, error) {
	for {
		out, err := do()
		refusal, ok := errors.AsType[*control.Error](err)
		if !ok || refusal.Reason != control.ReasonUpstreamRateLimited && refusal.Reason != control.ReasonBusy && refusal.Reason != control.ReasonUpstreamUnavailable {
			return out, err
		}
		select {
		case <-time.After(time.Duration(max(1, refusal.RetryAfterSeconds)) * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// check wants those to fail that must, and no other.
func (d *driver) check(failed map[string]control.Reason, published int) error {
	var wrong []string
	for image, reason := range failed {
		tag := strings.TrimPrefix(image, "docker.io/library/")
		if d.official.Missing[tag] && reason == control.ReasonImageNotFound || d.official.Corrupt[tag] && reason == control.ReasonUpstreamInvalid {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s: %s", image, reason))
	}
	if len(wrong) > 0 || len(failed) != missingTags+corruptTags || len(d.current) != published || d.publisher.blocks != published {
		return fmt.Errorf("%d failed, %d are published in %d blocks, want %d and %d; wrongly: %v",
			len(failed), len(d.current), d.publisher.blocks, missingTags+corruptTags, published, wrong)
	}
	return nil
}
