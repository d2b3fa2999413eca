package publish

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// pushPlatforms makes an image with a layer "layer of ARCHITECTURE" for each
// architecture, and tags it.
func (w *env) pushPlatforms(name, tag string, architectures ...string) digest.Digest {
	var manifests []upstreamtest.Descriptor
	for _, a := range architectures {
		manifests = append(manifests, w.registry.AddImage(upstreamtest.Platform{OS: "linux", Architecture: a}, name+" "+a, []byte("layer of "+a)))
	}
	d := w.registry.AddIndex(manifests...)
	w.registry.Tag("library/"+name, tag, d)
	return d
}

// checkPlatforms checks that the image's newest block, and its piece list, hold
// these architectures and no others.
func (w *env) checkPlatforms(t *testing.T, name string, want ...string) *ledger.Entry {
	t.Helper()
	e, err := w.Writer.Latest(t.Context(), parseImage(t, name))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := w.blobs(t.Context(), e.Artifact.Pieces)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[digest.Digest]pieces.Blob{}
	for _, b := range blobs {
		listed[b.Digest] = b
	}
	var got []string
	for _, p := range e.Artifact.Platforms {
		a := strings.TrimPrefix(p.Platform, "linux/")
		got = append(got, a)
		for _, d := range []digest.Digest{p.Digest, p.Config, digest.FromString("layer of " + a)} {
			if listed[d].Digest != d || !w.Store.Has(d) {
				t.Errorf("block %d: %s of %s is not in its piece list, or not in the store", e.Height, d, a)
			}
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("block %d of %s has the platforms %v, want %v", e.Height, name, got, want)
	}
	return e
}

// Platforms that an earlier publication left out are published on request, by a
// further block that also has those of the earlier one.
func TestPlatformsThatWereLeftOutAreAdded(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.pushPlatforms("app", "1", "amd64", "arm64", "s390x")
	ask := func(platforms ...string) *ledger.Entry {
		t.Helper()
		w.see(t, "app:1", d)
		e, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: platforms})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := ask("linux/s390x")
	w.checkPlatforms(t, "app:1", "s390x")
	second := ask("linux/amd64")
	w.checkPlatforms(t, "app:1", "amd64", "s390x")
	all := ask()
	w.checkPlatforms(t, "app:1", "amd64", "arm64", "s390x")
	if first.Height != 0 || second.Height != 1 || all.Height != 2 {
		t.Errorf("blocks %d, %d and %d", first.Height, second.Height, all.Height)
	}
	for _, platforms := range [][]string{{"linux/s390x"}, {"linux/arm64", "linux/amd64"}, nil} {
		if e := ask(platforms...); e.Height != all.Height {
			t.Errorf("%v is answered with block %d, want %d", platforms, e.Height, all.Height)
		}
	}
	if size := w.Writer.Size(); size != 3 {
		t.Errorf("%d blocks, want 3", size)
	}
}

// The same where the tag went away and came back: the block that it gets then
// has what the one before had.
func TestATagThatComesBackKeepsItsPlatforms(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.pushPlatforms("app", "1", "amd64", "s390x")
	w.mustPublish(t, "app:1")
	w.push("app", "1", "another")
	w.mustPublish(t, "app:1")
	w.registry.Tag("library/app", "1", d)
	w.see(t, "app:1", d)
	if _, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"linux/s390x"}}); err != nil {
		t.Fatal(err)
	}
	if e := w.checkPlatforms(t, "app:1", "amd64", "s390x"); e.Height != 2 {
		t.Errorf("block %d, want 2", e.Height)
	}
}

// A further block never moves a tag back: a request for more platforms of an
// older digest is refused.
func TestPlatformsAreNotAddedToWhatTheTagLeft(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.pushPlatforms("app", "1", "amd64", "s390x")
	if _, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"linux/s390x"}}); err != nil {
		t.Fatal(err)
	}
	w.push("app", "1", "another")
	newer := w.mustPublish(t, "app:1")
	_, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String()})
	if reasonOf(err) != control.ReasonTagPointsElsewhere {
		t.Errorf("more of an older digest: %v", err)
	}
	if latest, err := w.Writer.Latest(t.Context(), parseImage(t, "app:1")); err != nil || latest.Height != newer.Height {
		t.Errorf("the tag's newest block is %+v, %v", latest, err)
	}
}

// Content that was dropped comes back with all platforms of its block.
func TestDroppedContentComesBackWhole(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.pushPlatforms("app", "1", "amd64", "s390x")
	block := w.mustPublish(t, "app:1")
	if _, err := w.Drop(t.Context(), control.DropRequest{Artifacts: []control.ArtifactID{{Image: "docker.io/library/app:1", Digest: d.String()}}}); err != nil {
		t.Fatal(err)
	}
	e, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"linux/s390x"}})
	if err != nil || e.Height != block.Height {
		t.Errorf("%+v, %v, want block %d", e, err, block.Height)
	}
	w.checkPlatforms(t, "app:1", "amd64", "s390x")
}

// A caller that joins a running publication is answered when what it asked for
// is published, not when what another one asked for is.
func TestWhoJoinsAPublicationGetsItsOwnPlatforms(t *testing.T) {
	for name, first := range map[string]func(w *env, d digest.Digest){
		"one with fewer platforms": func(w *env, d digest.Digest) {
			_, _ = w.Publish(t.Context(), control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"linux/s390x"}})
		},
		"one that fails, for it wants platforms that are not there": func(w *env, d digest.Digest) {
			_, _ = w.Publish(t.Context(), control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"plan9/mips"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newEnv(t, OnPull{})
			d := w.pushPlatforms("app", "1", "amd64", "s390x")
			w.see(t, "app:1", d)
			begun, release := w.hold(d)
			var group sync.WaitGroup
			group.Go(func() { first(w, d) })
			<-begun
			for range 4 {
				group.Go(func() {
					e, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String()})
					if err != nil || len(e.Artifact.Platforms) != 2 {
						t.Errorf("who joined is answered with %+v, %v", e, err)
					}
				})
			}
			time.Sleep(100 * time.Millisecond) // they join; that one does it later makes the test weaker, and fails nothing
			close(release)
			group.Wait()
			w.checkPlatforms(t, "app:1", "amd64", "s390x")
			if size := w.Writer.Size(); size > 2 {
				t.Errorf("%d blocks, want at most 2", size)
			}
		})
	}
}

// hold keeps the first answer about a manifest back until it is released.
func (w *env) hold(d digest.Digest) (begun, release chan struct{}) {
	begun, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.registry.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/manifests/"+d.String()) {
			once.Do(func() { close(begun); <-release })
		}
		return false
	}
	return begun, release
}

// A client that pulls on demand, while somebody has fewer platforms published,
// waits for all of them.
func TestWhoPullsGetsAllPlatforms(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"*"}})
	d := w.pushPlatforms("app", "1", "amd64", "s390x")
	w.see(t, "app:1", d)
	begun, release := w.hold(d)
	var group sync.WaitGroup
	group.Go(func() {
		_, _ = w.Publish(t.Context(), control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"linux/s390x"}})
	})
	<-begun
	group.Go(func() {
		if err := w.Pull(within(t, time.Minute), parseImage(t, "app:1")); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(100 * time.Millisecond)
	close(release)
	group.Wait()
	w.checkPlatforms(t, "app:1", "amd64", "s390x")
}

// What is attached later comes by a block that has no fewer platforms than the
// newest, also if that one was made meanwhile.
func TestAttachmentsTakeNoPlatformsAway(t *testing.T) {
	w := newEnv(t, OnPull{})
	w.registry.ReferrersAPI = true
	d := w.pushPlatforms("app", "1", "amd64", "s390x")
	few, err := w.ask(t, control.PublishRequest{Image: "app:1", Digest: d.String(), Platforms: []string{"linux/s390x"}})
	if err != nil {
		t.Fatal(err)
	}
	w.mustPublish(t, "app:1")
	sbom := *few.Artifact
	sbom.Pieces = digest.FromString("with an sbom")
	j := &job{key: key{"docker.io/library/app:1", d}, image: parseImage(t, "app:1"), block: few}
	if _, err := w.append(t.Context(), j, &sbom); err != nil {
		t.Errorf("what was overtaken is a failure: %v", err)
	}
	w.checkPlatforms(t, "app:1", "amd64", "s390x")
}
