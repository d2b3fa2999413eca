package publish

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ask has a publisher publish a digest, until it has or refuses.
func (w *env) ask(t *testing.T, req control.PublishRequest) (*ledger.Entry, error) {
	t.Helper()
	for range 10 {
		resp, err := w.Publish(t.Context(), req)
		if err != nil {
			return nil, err
		}
		if resp.Block != nil {
			return w.Writer.Entry(t.Context(), resp.Block.Height)
		}
	}
	t.Fatalf("%s is not published in time", req.Image)
	return nil, nil
}

// see has the tag resolved, as a set of the operator does.
func (w *env) see(t *testing.T, image string, want digest.Digest) {
	t.Helper()
	resp, err := w.Resolve(t.Context(), control.ResolveRequest{Image: image})
	if err != nil || resp.Digest != want.String() {
		t.Fatalf("%s resolves to %+v, %v, want %s", image, resp, err, want)
	}
}

// restart forgets what a process knows.
func (w *env) restart(t *testing.T) {
	t.Helper()
	var err error
	if w.sightings, err = newSightings(); err != nil {
		t.Fatal(err)
	}
}

// hide has a repository not have a digest, as a real registry has none that was
// pushed to another.
func (w *env) hide(repository string, d digest.Digest) {
	w.registry.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/library/"+repository+"/manifests/"+d.String() {
			http.NotFound(rw, r)
			return true
		}
		return false
	}
}

const alpine = "docker.io/library/alpine:3.20"

// What the registry says about a tag decides what is published under it.
func TestATagMeansWhatItsRegistrySays(t *testing.T) {
	never := digest.FromString("never pushed anywhere")
	for _, c := range []struct {
		name    string
		digest  func(w *env, old, other digest.Digest) digest.Digest
		pinned  bool
		want    control.Reason // none: it is published
		says    string         // in the refusal's message
		version int
	}{
		{name: "another repository's image, which is in the store", digest: func(_ *env, _, other digest.Digest) digest.Digest { return other },
			want: control.ReasonDigestNotInRepository, says: "points to sha256:"},
		{name: "another repository's image, pinned", digest: func(_ *env, _, other digest.Digest) digest.Digest { return other }, pinned: true,
			want: control.ReasonDigestNotInRepository, says: "another repository"},
		{name: "a digest that the upstream never had", digest: func(*env, digest.Digest, digest.Digest) digest.Digest { return never },
			want: control.ReasonDigestNotInRepository, says: never.String()},
		{name: "an older image of the tag", digest: func(_ *env, old, _ digest.Digest) digest.Digest { return old },
			want: control.ReasonTagPointsElsewhere, says: "points to sha256:"},
		{name: "an older image of the tag, pinned", digest: func(_ *env, old, _ digest.Digest) digest.Digest { return old }, pinned: true, version: 2},
		{name: "an image whose tag is gone", digest: func(w *env, old, _ digest.Digest) digest.Digest {
			w.registry.Tag("library/alpine", "3.20", "sha256:gone")
			return old
		}, want: control.ReasonTagPointsElsewhere, says: "there is no " + alpine},
		{name: "what the tag points to", digest: func(w *env, _, _ digest.Digest) digest.Digest { return w.push("alpine", "3.20", "newest") }, version: 1},
		{name: "what the tag points to, pinned", digest: func(w *env, _, _ digest.Digest) digest.Digest { return w.push("alpine", "3.20", "newest") }, pinned: true, version: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newEnv(t, OnPull{})
			other := w.push("evil", "1", "backdoor")
			w.mustPublish(t, "evil:1")
			old := w.push("alpine", "3.20", "old")
			w.push("alpine", "3.20", "new")
			w.hide("alpine", other)
			size := w.Writer.Size()
			d := c.digest(w, old, other)
			e, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: d.String(), Pinned: c.pinned})
			if c.want != "" {
				if reasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %s with %q", err, c.want, c.says)
				}
				if w.Writer.Size() != size {
					t.Errorf("the ledger has %d blocks, want %d", w.Writer.Size(), size)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if a := e.Artifact; a.Digest != d || a.Version != c.version || a.Pinned != (c.version == 2) || !a.SeenAt.IsZero() {
				t.Errorf("block %s", e.Data)
			}
		})
	}
}

// A set saw a tag that moved before it was published: the block says when. Only
// a set gets such a block.
func TestWhatASetSawIsPublishedWithItsTime(t *testing.T) {
	w := newEnv(t, OnPull{})
	first := w.push("alpine", "3.20", "first")
	began := time.Now().Truncate(time.Second)
	w.see(t, alpine, first)
	second := w.push("alpine", "3.20", "second")
	w.sightings.age(parseImage(t, "alpine:3.20"))
	req := control.PublishRequest{Image: alpine, Digest: first.String()}
	if _, err := w.ask(t, req); reasonOf(err) != control.ReasonTagPointsElsewhere || !strings.Contains(err.Error(), second.String()) {
		t.Errorf("by hand: %v", err)
	}
	req.Seen = true
	e, err := w.ask(t, req)
	if err != nil {
		t.Fatal(err)
	}
	if a := e.Artifact; a.Version != 2 || a.Pinned || a.SeenAt.Before(began.Add(-2*freshFor)) || a.SeenAt.After(a.Time) {
		t.Errorf("block %s", e.Data)
	}
	w.see(t, alpine, second)
	if e, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: second.String()}); err != nil || e.Artifact.Version != 1 || e.Height != 1 {
		t.Errorf("the tag's own digest: %+v, %v", e, err)
	}
}

// What was seen before the tag's newest block does not come back.
func TestATagIsNotMovedBack(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"alpine:*"}})
	image := parseImage(t, "alpine:3.20")
	first := w.push("alpine", "3.20", "first")
	w.see(t, alpine, first)
	second := w.push("alpine", "3.20", "second")
	if _, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: second.String()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: first.String(), Seen: true}); reasonOf(err) != control.ReasonSuperseded {
		t.Errorf("seen before the newest block: %v", err)
	}
	third := w.push("alpine", "3.20", "third")
	w.see(t, alpine, third)
	w.push("alpine", "3.20", "fourth")
	w.restart(t)
	if _, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: third.String(), Seen: true}); reasonOf(err) != control.ReasonSuperseded {
		t.Errorf("seen by a process that is gone: %v", err)
	}
	if latest, err := w.Writer.Latest(t.Context(), image); err != nil || latest.Artifact.Digest != second {
		t.Errorf("the tag is %+v, %v", latest, err)
	}
}

// A pair of tag and digest that the ledger has is answered from it, whatever
// the upstream says by now, and moves nothing. A tag that was seen to come back
// is news.
func TestWhatIsRecordedIsNotAskedFor(t *testing.T) {
	w := newEnv(t, OnPull{})
	first := w.push("alpine", "3.20", "first")
	one := w.mustPublish(t, alpine)
	w.push("alpine", "3.20", "second")
	two := w.mustPublish(t, alpine)
	before := w.registry.Counts()
	for _, req := range []control.PublishRequest{{}, {Seen: true}, {Pinned: true}} { // a restored backup, say
		req.Image, req.Digest = alpine, first.String()
		if e, err := w.ask(t, req); err != nil || e.Height != one.Height {
			t.Errorf("%+v: %+v, %v, want block %d", req, e, err, one.Height)
		}
	}
	if after := w.registry.Counts(); after != before || w.Writer.Size() != two.Height+1 {
		t.Errorf("asked the upstream: %+v, before %+v; %d blocks", after, before, w.Writer.Size())
	}
	w.registry.Tag("library/alpine", "3.20", first)
	if back := w.mustPublish(t, alpine); back.Height != two.Height+1 {
		t.Errorf("the tag came back: block %d", back.Height)
	}
}

// One HEAD resolves a tag and serves its publication; by hand it takes one too.
func TestATagIsAskedOnce(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"pulled:*"}})
	d := w.push("alpine", "3.20", "layer")
	w.push("alpine", "3.21", "another layer")
	w.push("pulled", "1", "yet another")
	heads := func(want int, do func()) {
		t.Helper()
		before := w.registry.Counts().Head
		do()
		if got := w.registry.Counts().Head - before; got != want {
			t.Errorf("%d HEADs, want %d", got, want)
		}
	}
	heads(1, func() {
		if _, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: d.String()}); err != nil {
			t.Error(err)
		}
	})
	heads(1, func() { w.mustPublish(t, "alpine:3.21") })
	heads(1, func() {
		if err := w.Pull(within(t, time.Minute), parseImage(t, "pulled:1")); err != nil {
			t.Error(err)
		}
	})
}

// A registry that does not answer has not said anything: nothing is published,
// and nothing is refused for good, although the content is in the store.
func TestNoAnswerIsNoRefusal(t *testing.T) {
	for name, fault := range map[string]struct {
		answer func(w *env, rw http.ResponseWriter)
		want   control.Reason
	}{
		"429": {func(w *env, rw http.ResponseWriter) { w.registry.Throttle(rw, 60) }, control.ReasonUpstreamRateLimited},
		"503": {func(w *env, rw http.ResponseWriter) { w.registry.Fail(rw) }, control.ReasonUpstreamUnavailable},
	} {
		for _, when := range []string{"by tag", "by digest"} {
			t.Run(name+" "+when, func(t *testing.T) {
				w := newEnv(t, OnPull{})
				d := w.push("alpine", "3.19", "layer")
				w.mustPublish(t, "alpine:3.19")
				w.push("alpine", "3.20", "another")
				w.registry.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodHead || strings.HasSuffix(r.URL.Path, "/manifests/3.20") != (when == "by tag") {
						return false
					}
					fault.answer(w, rw)
					return true
				}
				_, err := w.ask(t, control.PublishRequest{Image: alpine, Digest: d.String(), Pinned: true})
				if refusal, ok := err.(*control.Error); !ok || refusal.Reason != fault.want || refusal.Permanent() {
					t.Errorf("%v, want %s", err, fault.want)
				}
				if w.Writer.Size() != 1 {
					t.Errorf("%d blocks, want 1", w.Writer.Size())
				}
			})
		}
	}
}

// A copy that took long ends after the tag has gone on: its block would move the
// tag back.
func TestASlowCopyDoesNotMoveItsTagBack(t *testing.T) {
	w := newEnv(t, OnPull{})
	release, reached := make(chan struct{}), make(chan struct{})
	var once, arrive sync.Once
	defer once.Do(func() { close(release) })
	slow := w.push("alpine", "3.20", "slow layer")
	w.registry.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, digest.FromString("slow layer").String()) {
			arrive.Do(func() { close(reached) })
			<-release
		}
		return false
	}
	w.see(t, alpine, slow)
	image := parseImage(t, "alpine:3.20")
	j, err := w.start(&job{key: key{alpine, slow}, image: image, registry: w.upstreams["docker.io"]})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, reached)
	fast := w.push("alpine", "3.20", "fast layer")
	w.mustPublish(t, alpine)
	once.Do(func() { close(release) })
	waitFor(t, j.ended)
	if reasonOf(j.err) != control.ReasonTagPointsElsewhere {
		t.Errorf("the slow one: %v", j.err)
	}
	if latest, err := w.Writer.Latest(t.Context(), image); err != nil || latest.Artifact.Digest != fast {
		t.Errorf("the tag is %+v, %v", latest, err)
	}
}

// A signature's tag that moved is asked again, and is not moved back by what is
// remembered of it.
func TestASignatureIsNotMovedBack(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.push("signed", "1", "layer")
	tag := "sha256-" + d.Encoded() + ".sig"
	old := w.registry.AddImage(upstreamtest.Platform{}, "signature", []byte("old")).Digest
	w.registry.Tag("library/signed", tag, old)
	if _, err := w.upstreams["docker.io"].Attached(t.Context(), parseImage(t, "signed:1"), d); err != nil { // and remembers it
		t.Fatal(err)
	}
	newer := w.registry.AddImage(upstreamtest.Platform{}, "signature", []byte("new")).Digest
	w.registry.Tag("library/signed", tag, newer)
	w.mustPublish(t, "signed:"+tag)
	w.mustPublish(t, "signed:1")
	latest, err := w.Writer.Latest(t.Context(), parseImage(t, "signed:"+tag))
	if err != nil || latest.Artifact.Digest != newer || w.Writer.Size() != 2 {
		t.Errorf("the signature is %+v, %v, with %d blocks", latest, err, w.Writer.Size())
	}
}

// age makes what is known of a tag too old to count as what it is now.
func (s *sightings) age(image ledger.Image) {
	seen, _ := s.of(image)
	seen.at = seen.at.Add(-freshFor)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags.Add(image.String(), seen)
}

func waitFor(t *testing.T, done <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("waited 20 s in vain")
	}
}
