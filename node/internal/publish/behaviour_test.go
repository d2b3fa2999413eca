package publish

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

func TestRevokedImagesAreNotPublishedAgain(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.push("bad", "1", "backdoor")
	first := w.mustPublish(t, "bad:1")
	w.push("bad", "1", "another")
	w.mustPublish(t, "bad:1")
	w.registry.Tag("library/bad", "1", d) // the tag comes back
	again := w.mustPublish(t, "bad:1")
	req := control.RevokeRequest{Image: "bad:1", Digest: d.String(), Block: again.Height, Reason: "it has a backdoor"}
	resp, err := w.Revoke(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(w.Writer.Key())
	if err != nil {
		t.Fatal(err)
	}
	target := ledger.Target{Image: parseImage(t, "bad:1"), Digest: d, Block: again.Height}
	for what, b := range map[string]*control.Block{"the block": &resp.Block, "the digest": resp.Withdrawal} {
		if _, reason, err := ledger.VerifyWithdrawal(v, []byte(b.Entry), []byte(b.Proof), target); err != nil || reason != req.Reason {
			t.Errorf("withdrawal of %s: %q, %v", what, reason, err)
		}
	}
	if resp.Block.Height == resp.Withdrawal.Height || !slices.Equal(resp.Tags, []string{"docker.io/library/bad:1"}) {
		t.Errorf("revoked: %+v", resp)
	}
	for _, height := range []int64{first.Height, again.Height} {
		block, err := w.Writer.Entry(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		if by, err := w.Writer.RevokedBy(t.Context(), block); err != nil || by == nil {
			t.Errorf("block %d is revoked by %v, %v", height, by, err)
		}
	}
	size := w.Writer.Size()
	if second, err := w.Revoke(t.Context(), req); err != nil || second.Block.Height != resp.Block.Height || w.Writer.Size() != size {
		t.Errorf("revoked twice: %+v, %v", second, err)
	}
	if _, err := w.publish(t, "bad:1"); reasonOf(err) != control.ReasonRevoked {
		t.Errorf("published again: %v", err)
	}
	req.Block = 99
	if _, err := w.Revoke(t.Context(), req); reasonOf(err) != control.ReasonInvalidRequest {
		t.Errorf("a block that does not exist: %v", err)
	}
}

// A withdrawn digest gets no block under any tag, by any way, until it is
// restored: by an explicit request alone. It may be withdrawn before anybody
// has published it.
func TestWithdrawnDigestsComeBackByRestoreAlone(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"*"}})
	d := w.push("bad", "1", "backdoor")
	revoke := control.RevokeRequest{Image: "bad:1", Digest: d.String(), Block: -1, Reason: "it has a backdoor"}
	resp, err := w.Revoke(t.Context(), revoke)
	if err != nil || resp.Block.Height != resp.Withdrawal.Height {
		t.Fatalf("withdrawn in advance: %+v, %v", resp, err)
	}
	w.registry.Tag("library/bad", "2", d)
	for _, name := range []string{"bad:1", "bad:2", "registry-1.docker.io/library/bad:2"} {
		if _, err := w.publish(t, name); reasonOf(err) != control.ReasonRevoked || !strings.Contains(err.Error(), "it has a backdoor") {
			t.Errorf("published as %s: %v", name, err)
		}
	}
	err = w.Pull(within(t, time.Minute), parseImage(t, "bad:2"))
	if _, ok := errors.AsType[*ledger.WithdrawnError](err); !ok {
		t.Errorf("pulled: %v", err)
	}
	if _, err := w.Restore(t.Context(), control.RestoreRequest{Image: "bad:1", Digest: digest.FromString("other").String(), Reason: "no"}); reasonOf(err) != control.ReasonInvalidRequest {
		t.Errorf("restored what was not withdrawn: %v", err)
	}
	restore := control.RestoreRequest{Image: "bad:1", Digest: d.String(), Reason: "a false alarm"}
	restored, err := w.Restore(t.Context(), restore)
	if err != nil {
		t.Fatal(err)
	}
	block := w.mustPublish(t, "bad:2")
	if again, err := w.Restore(t.Context(), restore); err != nil || again.Block.Height != restored.Block.Height {
		t.Errorf("restored twice: %+v, %v", again, err)
	}
	e, err := w.Writer.Entry(t.Context(), block.Height)
	if err != nil {
		t.Fatal(err)
	}
	if by, err := w.Writer.RevokedBy(t.Context(), e); err != nil || by != nil {
		t.Errorf("the restored image is withdrawn by %+v, %v", by, err)
	}
	// Withdrawn again, it goes from all tags and from the index that has it.
	index := w.registry.AddIndex(w.registry.AddImage(linux, "bad", []byte("backdoor")), w.registry.AddImage(linux, "good", []byte("fine")))
	w.registry.Tag("library/bad", "both", index)
	w.mustPublish(t, "bad:both")
	platform := e.Artifact.Platforms[0].Digest
	resp, err = w.Revoke(t.Context(), control.RevokeRequest{Image: "bad:2", Digest: platform.String(), Block: -1, Reason: "it has a backdoor"})
	if err != nil || len(resp.Tags) != 0 || !slices.Equal(resp.Indexes, []string{"docker.io/library/bad:2", "docker.io/library/bad:both"}) {
		t.Errorf("a platform: %+v, %v", resp, err)
	}
}

// What was never published has no content to drop: nothing is remembered of it,
// because the creator of Artifacts can name any number of such images.
func TestDropRemembersWhatThereWas(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.push("app", "1", "layer")
	w.mustPublish(t, "docker.io/library/app:1")
	for round := range 3 {
		req := control.DropRequest{Artifacts: []control.ArtifactID{{Image: "docker.io/library/app:1", Digest: d.String()}}}
		for n := range control.MaxDrop - 1 {
			req.Artifacts = append(req.Artifacts, control.ArtifactID{Image: fmt.Sprintf("docker.io/library/app%d:%d", round, n), Digest: d.String()})
		}
		if _, err := w.Drop(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := openDropped(w.StateFile); err != nil || len(kept.keys) != 1 {
		t.Errorf("%d images are remembered, of 1 that was dropped: %v", len(kept.keys), err)
	}
}

// Dropped content is deleted unless another image needs it; blocks stay; and
// what is published again is fetched again.
func TestDropFreesWhatNobodyNeeds(t *testing.T) {
	w := newEnv(t, OnPull{})
	one := w.push("one", "1", "shared layer", "layer of one")
	w.push("two", "1", "shared layer", "layer of two")
	block := w.mustPublish(t, "one:1")
	w.mustPublish(t, "two:1")
	id := control.ArtifactID{Image: "docker.io/library/one:1", Digest: one.String()}
	resp, err := w.Drop(t.Context(), control.DropRequest{Artifacts: []control.ArtifactID{id}})
	if err != nil {
		t.Fatal(err)
	}
	// The index, manifest, config, one layer, and the piece list.
	if resp.Blobs != 5 || w.Store.Has(digest.FromString("layer of one")) || !w.Store.Has(digest.FromString("shared layer")) {
		t.Errorf("dropped %+v", resp)
	}
	before := w.registry.Counts().Blobs
	if again := w.mustPublish(t, "one:1"); again.Height != block.Height {
		t.Errorf("published again as block %d, want %d", again.Height, block.Height)
	}
	if fetched := w.registry.Counts().Blobs - before; fetched != 2 || !w.Store.Has(digest.FromString("layer of one")) {
		t.Errorf("%d blobs were fetched again, want 2", fetched)
	}
	if kept, err := openDropped(w.StateFile); err != nil || len(kept.keys) > 0 {
		t.Errorf("still dropped: %v, %v", kept, err)
	}
}

func TestPullPublishesOnceHoweverManyAsk(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"app:*"}, PerHour: 2})
	for i := range 3 {
		w.push("app", fmt.Sprint(i), fmt.Sprint("layer ", i))
	}
	w.push("other", "1", "other")
	together(20, func() {
		if err := w.Pull(within(t, time.Minute), parseImage(t, "app:0")); err != nil {
			t.Error(err)
		}
	})
	if c := w.registry.Counts(); c.Blobs != 2 || w.Writer.Size() != 1 {
		t.Errorf("%d blocks, counts %+v: want one block and one fetch of each blob", w.Writer.Size(), c)
	}
	if err := w.Pull(t.Context(), parseImage(t, "other:1")); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("an image that is not allowed: %v", err)
	}
	if err := w.Pull(t.Context(), parseImage(t, "app:1")); err != nil {
		t.Fatal(err)
	}
	err := w.Pull(t.Context(), parseImage(t, "app:2"))
	if r, ok := errors.AsType[*control.Error](err); !ok || r.Reason != control.ReasonBusy || r.RetryAfterSeconds < 3000 {
		t.Errorf("the third image in an hour: %v", err)
	}
	if err := w.Pull(t.Context(), parseImage(t, "app:missing")); err == nil {
		t.Error("an image that does not exist was published")
	}
}

// Requests for images that do not exist, or cannot be published, use up no
// budget and do not reach the upstream again and again.
func TestPullsThatPublishNothingDoNotCount(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"app:*", "broken:*"}, PerHour: 2})
	w.push("app", "1", "layer")
	w.push("broken", "1", "lost layer")
	var asked, lost atomic.Int64
	w.registry.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/missing") {
			asked.Add(1)
		}
		if strings.Contains(r.URL.Path, "/broken/blobs/") {
			lost.Add(1)
			http.Error(rw, "{}", http.StatusNotFound)
			return true
		}
		return false
	}
	for i := range 20 {
		if err := w.Pull(within(t, time.Minute), parseImage(t, fmt.Sprint("app:missing", i%4))); err == nil {
			t.Fatal("an image that does not exist was published")
		}
	}
	if n := asked.Load(); n > 8 {
		t.Errorf("the upstream was asked %d times for 4 images that it does not have", n)
	}
	for range 3 {
		if err := w.Pull(within(t, time.Minute), parseImage(t, "broken:1")); err == nil {
			t.Fatal("an image without its layers was published")
		}
	}
	if lost.Load() == 0 {
		t.Fatal("the broken image was not tried")
	}
	if err := w.Pull(within(t, time.Minute), parseImage(t, "app:1")); err != nil || w.Writer.Size() != 1 {
		t.Errorf("an honest pull after that: %v, %d blocks", err, w.Writer.Size())
	}
}

// A client that has waited long enough is told to retry, and the work goes on.
func TestPullGoesOnWithoutTheClient(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"slow:*"}})
	w.push("slow", "1", "slow layer")
	release := make(chan struct{})
	w.registry.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-release
		}
		return false
	}
	err := w.Pull(within(t, 300*time.Millisecond), parseImage(t, "slow:1"))
	if r, ok := errors.AsType[*control.Error](err); !ok || r.Reason != control.ReasonBusy || r.RetryAfterSeconds == 0 {
		t.Errorf("the client that left: %v", err)
	}
	close(release)
	if err := w.Pull(within(t, time.Minute), parseImage(t, "slow:1")); err != nil || w.Writer.Size() != 1 {
		t.Errorf("the next one: %v, %d blocks", err, w.Writer.Size())
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
