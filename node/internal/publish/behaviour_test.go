package publish

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func reasonOf(err error) control.Reason {
	if r, ok := errors.AsType[*control.Error](err); ok {
		return r.Reason
	}
	return ""
}

// Repositories take turns: the many images of one do not keep others waiting.
func TestQueueIsFair(t *testing.T) {
	q := queue{limit: concurrency}
	newJob := func(repository string, n int) *job {
		return &job{key: key{image: fmt.Sprint(repository, n)}, image: ledger.Image{Registry: "docker.io", Repository: repository}}
	}
	for i := range 20 {
		q.push(newJob("big", i))
	}
	q.push(newJob("small", 0))
	q.push(newJob("tiny", 0))
	var got []string
	var running []*job
	for j := q.pop(); j != nil; j = q.pop() {
		got = append(got, j.key.image)
		running = append(running, j)
	}
	if diff := cmp.Diff([]string{"big0", "small0", "tiny0", "big1", "big2", "big3"}, got); diff != "" {
		t.Errorf("those that run first (-want +got):\n%s", diff)
	}
	q.release(running[1])
	if j := q.pop(); j != nil {
		t.Errorf("%s runs: a repository may have %d at once", j.key.image, concurrency/2)
	}
	q.release(running[0])
	if j := q.pop(); j == nil || j.key.image != "big4" {
		t.Errorf("the next one is %v", j)
	}
}

// One image that hangs does not keep the others of its repository, nor those
// of others, from being published.
func TestABrokenImageDoesNotBlockOthers(t *testing.T) {
	w := newEnv(t, OnPull{})
	release := make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(release) })
	w.push("app", "hangs", "hanging layer")
	w.registry.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, digest.FromString("hanging layer").String()) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	}
	hanging := parseImage(t, "app:hangs")
	d, err := w.upstreams["docker.io"].Resolve(t.Context(), hanging)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.start(&job{key: key{hanging.String(), d}, image: hanging, registry: w.upstreams["docker.io"]}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * concurrency {
		w.push("app", fmt.Sprint(i), fmt.Sprint("layer ", i))
		w.push("other", fmt.Sprint(i), fmt.Sprint("other ", i))
	}
	for i := range 2 * concurrency {
		w.mustPublish(t, fmt.Sprint("app:", i))
		w.mustPublish(t, fmt.Sprint("other:", i))
	}
	if got := w.Writer.Size(); got != 4*concurrency {
		t.Errorf("%d blocks, want %d", got, 4*concurrency)
	}
	once.Do(func() { close(release) })
	w.mustPublish(t, "app:hangs")
}

func TestSignaturesArePublishedBeforeTheirImage(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.push("signed", "1", "layer")
	signature := w.registry.AddImage(upstreamtest.Platform{}, "signature", []byte("the signature"))
	tag := "sha256-" + d.Encoded() + ".sig"
	w.registry.Tag("library/signed", tag, signature.Digest)
	image := w.mustPublish(t, "signed:1")
	found, err := w.Writer.Latest(t.Context(), parseImage(t, "signed:"+tag))
	if err != nil {
		t.Fatal(err)
	}
	if found.Artifact.Digest != signature.Digest || found.Height >= image.Height {
		t.Errorf("signature in block %d with %s, image in block %d", found.Height, found.Artifact.Digest, image.Height)
	}
}

// What is attached to an image after it was published is found by a later
// pass, once, and is vouched for by a further block.
func TestWhatIsAttachedLaterIsPublished(t *testing.T) {
	w := newEnv(t, OnPull{})
	w.registry.ReferrersAPI = true
	const memory = 10 * time.Millisecond
	forgetful, err := upstream.New(upstream.Config{Name: "docker.io", Endpoint: w.Upstreams["docker.io"], AttachedFor: memory})
	if err != nil {
		t.Fatal(err)
	}
	w.upstreams["docker.io"] = forgetful
	d := w.push("signed", "1", "layer")
	first := w.mustPublish(t, "signed:1")
	pass := func(blocks int64) {
		t.Helper()
		time.Sleep(2 * memory)
		w.looked.Add(key{"docker.io/library/signed:1", d}, time.Now()) // a day later
		if _, err := w.Resolve(t.Context(), control.ResolveRequest{Image: "signed:1"}); err != nil {
			t.Fatal(err)
		}
		for busy := true; busy; time.Sleep(time.Millisecond) {
			w.mu.Lock()
			busy = w.looks > 0 || w.queue.busy > 0
			w.mu.Unlock()
		}
		w.content.Lock() // until the block is appended
		defer w.content.Unlock()
		if size := w.Writer.Size(); size != blocks {
			t.Fatalf("%d blocks, want %d", size, blocks)
		}
	}
	pass(1) // nothing came
	sbom := w.registry.AddImage(upstreamtest.Platform{}, "sbom", []byte("the sbom"))
	w.registry.Refer(d, sbom.Digest)
	pass(2)
	pass(2)
	latest, err := w.Writer.Latest(t.Context(), parseImage(t, "signed:1"))
	if err != nil || latest.Artifact.Digest != d || latest.Height == first.Height {
		t.Fatalf("latest: %+v, %v", latest, err)
	}
	blobs, err := w.blobs(t.Context(), latest.Artifact.Pieces)
	if err != nil || !slices.ContainsFunc(blobs, func(b pieces.Blob) bool { return b.Digest == digest.FromString("the sbom") }) {
		t.Errorf("the referrer's content is not among %+v, %v", blobs, err)
	}
	signature := w.registry.AddImage(upstreamtest.Platform{}, "signature", []byte("the signature"))
	tag := "sha256-" + d.Encoded() + ".sig"
	w.registry.Tag("library/signed", tag, signature.Digest)
	pass(3)
	found, err := w.Writer.Latest(t.Context(), parseImage(t, "signed:"+tag))
	if err != nil || found.Artifact.Digest != signature.Digest {
		t.Errorf("the signature: %+v, %v", found, err)
	}
	pass(3)
	w.registry.Refer(d, w.registry.AddImage(upstreamtest.Platform{}, "another sbom", []byte("another sbom")).Digest)
	if _, err := w.Revoke(t.Context(), control.RevokeRequest{Image: "signed:1", Digest: d.String(), Block: first.Height, Reason: "it has a backdoor"}); err != nil {
		t.Fatal(err)
	}
	pass(6) // the digest and both of its blocks are withdrawn, and it gets no further one
	more := *latest.Artifact
	more.Pieces = digest.FromString("another list")
	if height, err := w.Writer.AppendMore(t.Context(), &more); err != nil || height != latest.Height {
		t.Errorf("one that was on its way: block %d, %v, want the withdrawn %d", height, err, latest.Height)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	w := newEnv(t, OnPull{})
	w.registry.Limit, w.registry.Window = 100, 6*time.Hour
	w.push("a", "1", "layer")
	w.mustPublish(t, "a:1")
	if _, err := w.publish(t, "missing:1"); reasonOf(err) != control.ReasonImageNotFound {
		t.Errorf("an image that does not exist: %v", err)
	}
	problems, err := testutil.GatherAndLint(w.gathered)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(w.gathered, "pyrsia_upstream_pulls_remaining"); err != nil || n != 1 {
		t.Errorf("rate limit: %d, %v", n, err)
	}
	resolved, err := w.Resolve(t.Context(), control.ResolveRequest{Image: "a:1"})
	if err != nil || resolved.RateLimit == nil || resolved.RateLimit.Limit != 100 || resolved.RateLimit.Remaining != 98 {
		t.Errorf("resolved: %+v, %v", resolved, err)
	}
}

// A request for an image that waits in the queue is answered immediately, even if
// the others take long; when they are done the image is published.
func TestWhatWaitsIsAnsweredAtOnce(t *testing.T) {
	w := newEnv(t, OnPull{})
	release := make(chan struct{})
	w.registry.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/slow") && strings.Contains(r.URL.Path, "/blobs/") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	}
	publish := func(name string, d digest.Digest) *control.PublishResponse {
		resp, err := w.Publish(within(t, 5*time.Second), control.PublishRequest{Image: name, Digest: d.String()})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	var slow sync.WaitGroup
	for i := range concurrency { // of a repository no more than half
		name, tag := fmt.Sprint("slow", i%2), fmt.Sprint(i)
		d := w.push(name, tag, "slow layer "+tag)
		slow.Go(func() {
			if resp := publish(name+":"+tag, d); resp.Queued || resp.Block != nil {
				t.Errorf("%s:%s is copied, and the answer is %+v", name, tag, resp)
			}
		})
	}
	slow.Wait()
	cheap := w.push("cheap", "1", "a layer")
	ctx := within(t, 5*time.Second)
	resp, err := w.Publish(ctx, control.PublishRequest{Image: "cheap:1", Digest: cheap.String()})
	if err != nil || !resp.Queued || ctx.Err() != nil { // it would wait until ctx ends
		t.Errorf("%+v, %v; the request waited: %v", resp, err, ctx.Err())
	}
	close(release)
	for range 100 {
		if resp := publish("cheap:1", cheap); resp.Block != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("the image is not published when the others are done")
}
