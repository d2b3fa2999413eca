package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

const (
	missingTags   = 20
	corruptTags   = 5
	movedTags     = 200
	throttleEvery = 4000 // requests
	// publishWait bounds a pass over all tags.
	publishWait = 40 * time.Minute
)

func publishBenchmarks() []benchmark {
	return []benchmark{
		{rows: []string{"publish-all", "publish-node-rss", "publish-operator-rss", "publish-writes", "publish-requests", "publish-again", "publish-moved"}, run: publishAll},
		{rows: []string{"publish-cpu"}, run: benchPublishCPU},
	}
}

// publishAll has the operator publish the whole list of official images from an
// upstream that limits, fails and lies, then again with nothing changed, then
// with moved tags.
func publishAll(ctx context.Context, dir string) (rows []row, err error) {
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
	s, err := startStage(ctx, dir, server.URL)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	set := &v1alpha1.OfficialImageSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "official"}}
	set.Spec.PublisherRef.Name = "publisher"
	set.Spec.Catalog = &v1alpha1.Catalog{Archive: &v1alpha1.CatalogArchive{URL: server.URL + "/catalog.tar.gz", SHA256: o.SHA256()}}
	set.Spec.Interval = &metav1.Duration{Duration: 1000 * time.Hour}
	d := &director{stage: s, official: o, set: set}
	first, err := d.first(ctx)
	if err != nil {
		return nil, err
	}
	later, err := d.later(ctx)
	return append(first, later...), err
}

// director has a set published, pass after pass.
type director struct {
	*stage
	official *upstreamtest.Official
	set      *v1alpha1.OfficialImageSet
}

// first publishes all that can be.
func (d *director) first(ctx context.Context) ([]row, error) {
	tags := len(d.official.Tags)
	want := int32(tags - missingTags - corruptTags)
	before, err := d.writes(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := d.Create(ctx, d.set); err != nil {
		return nil, err
	}
	told := start
	err = await(ctx, publishWait, func() error {
		if err := d.Get(ctx, kube.ObjectKeyFromObject(d.set), d.set); err != nil {
			return err
		}
		st := d.set.Status
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			fmt.Fprintf(os.Stderr, "  %s published, %d pending, %d failed\n", st.Progress, st.Pending, st.Failed)
		}
		if st.Published != want || st.Failed != missingTags+corruptTags || st.Pending != 0 {
			return fmt.Errorf("%d of %d published, %d pending, %d failed", st.Published, want, st.Pending, st.Failed)
		}
		return nil
	})
	took := time.Since(start)
	if err != nil {
		return nil, err
	}
	for _, f := range d.set.Status.Failures {
		tag := strings.TrimPrefix(f.Image, "docker.io/library/")
		if !(d.official.Missing[tag] && f.Reason == "ImageNotFound" || d.official.Corrupt[tag] && f.Reason == "UpstreamInvalid") {
			return nil, fmt.Errorf("failed wrongly: %+v", f)
		}
	}
	after, err1 := d.writes(ctx)
	node, err2 := rssOf(d.nodes[0])
	operator, err3 := rssOf(d.operator)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	against := fmt.Sprintf("%d tags by the operator, from an upstream on loopback", tags)
	perArtifact := (after - before) / float64(want)
	return []row{
		{Name: "publish-all", Value: took.Seconds(), Unit: "s", Against: against + " (ratio: tags/s)", Ratio: float64(tags) / took.Seconds(), target: "-"},
		{Name: "publish-node-rss", Value: node / 1e6, Unit: "MB", Against: against, Ratio: node / 1e6 / float64(tags), target: "-"},
		{Name: "publish-operator-rss", Value: operator / 1e6, Unit: "MB", Against: against, Ratio: operator / 1e6 / float64(tags), target: "-"},
		{Name: "publish-writes", Value: perArtifact, Unit: "writes/Artifact", Against: fmt.Sprintf("3, %d Artifacts", want), Ratio: perArtifact / 3, target: "<= 3"},
	}, nil
}

// later resolves all tags again: with nothing changed, and with moved tags.
func (d *director) later(ctx context.Context) ([]row, error) {
	tags, first, blocks := len(d.official.Tags), d.official.Counts(), d.set.Status.Blocks
	// A pass is due a minute after the one before began: now.
	start := time.Now()
	patch := kube.MergeFrom(d.set.DeepCopy())
	d.set.Spec.Interval = &metav1.Duration{Duration: time.Minute}
	if err := d.Patch(ctx, d.set, patch); err != nil {
		return nil, err
	}
	// That the operator has seen the new interval is a write, but not of the pass.
	err := await(ctx, time.Minute, func() error {
		if err := d.Get(ctx, kube.ObjectKeyFromObject(d.set), d.set); err != nil {
			return err
		}
		if d.set.Status.ObservedGeneration != d.set.Generation {
			return errors.New("the operator has not seen the new interval")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	writes, err := d.writes(ctx)
	if err != nil {
		return nil, err
	}
	err = await(ctx, publishWait, func() error {
		if heads := d.official.Counts().Head - first.Head; heads < tags {
			return fmt.Errorf("%d HEADs of %d", heads, tags)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	again, second := time.Since(start), d.official.Counts()
	writesAgain, err := d.writes(ctx)
	if err != nil {
		return nil, err
	}
	d.official.Move(movedTags)
	start = time.Now()
	err = await(ctx, publishWait, func() error {
		if err := d.Get(ctx, kube.ObjectKeyFromObject(d.set), d.set); err != nil {
			return err
		}
		if got := d.set.Status.Blocks - blocks; got != movedTags || d.set.Status.Pending > 0 {
			return fmt.Errorf("%d new blocks, want %d", got, movedTags)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	moved := time.Since(start)
	perTag := func(n int) float64 { return float64(n) / float64(tags) }
	// The failed images are tried again meanwhile: that is what is over 1.
	heads := perTag(second.Head - first.Head)
	return []row{
		{Name: "publish-requests", Value: heads, Unit: "requests/tag", Ratio: heads, target: "1 HEAD + new", Against: fmt.Sprintf(
			"1 HEAD, with %d manifests fetched; the first pass took %.2f HEADs/tag, and of what was new %.2f manifests, %.2f blobs and %.2f lookups of signatures",
			second.Manifests-first.Manifests, perTag(first.Head), perTag(first.Manifests), perTag(first.Blobs), perTag(first.Attached+first.Referrers))},
		{Name: "publish-again", Value: again.Seconds(), Unit: "s", Against: fmt.Sprintf("%d tags that did not move, %.0f writes", tags, writesAgain-writes), Ratio: float64(tags) / again.Seconds(), target: "-"},
		{Name: "publish-moved", Value: moved.Seconds(), Unit: "s", Against: fmt.Sprintf("%d moved tags, %d blocks, asked every minute", movedTags, movedTags), Ratio: moved.Seconds() / 60, target: "-"},
	}, nil
}
