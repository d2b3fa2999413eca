package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func artifact(image, content string) *ledger.AddArtifact {
	return &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1,
		Artifact:  image,
		Digest:    digest.FromString(content),
		MediaType: "application/vnd.oci.image.index.v1+json",
		Size:      100,
		Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: digest.FromString(content + "/m"), Config: digest.FromString(content + "/c"), Size: 7}},
		Pieces:    digest.FromString(content + "/p"),
		Upstream:  "registry.example",
		Time:      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

type publisher struct {
	*Writer
	skey, vkey, path string
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey("ledger.example/test")
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{skey: skey, vkey: vkey, path: t.TempDir()}
	p.open(t)
	return p
}

func (p *publisher) open(t *testing.T) {
	t.Helper()
	w, err := OpenWriter(t.Context(), p.path, p.skey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	p.Writer = w
	t.Cleanup(func() { _ = w.Close() })
}

func (p *publisher) mustAppend(t *testing.T, image, content string) int64 {
	t.Helper()
	height, err := p.Append(t.Context(), artifact(image, content))
	if err != nil {
		t.Fatal(err)
	}
	return height
}

func serve(t *testing.T, l *Ledger) *client.Client {
	t.Helper()
	s := httptest.NewServer(l.Handler())
	t.Cleanup(s.Close)
	return client.New(s.URL, http.DefaultClient)
}

func newFollower(t *testing.T, vkey string) *Follower {
	t.Helper()
	f, err := OpenFollower(t.Context(), t.TempDir(), vkey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

const alpine = "docker.io/library/alpine:3.20"

func TestAppendIsIdempotentAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	first := p.mustAppend(t, alpine, "one")
	if again := p.mustAppend(t, alpine, "one"); again != first {
		t.Errorf("the same image and digest again: block %d, want %d", again, first)
	}
	second := p.mustAppend(t, alpine, "two")
	back := p.mustAppend(t, alpine, "one") // the tag moved back: that is news
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.open(t)
	if again := p.mustAppend(t, alpine, "one"); again != back {
		t.Errorf("after a restart: block %d, want %d", again, back)
	}
	if got, want := []int64{first, second, back}, []int64{0, 1, 2}; !cmp.Equal(got, want) {
		t.Errorf("heights %v, want %v", got, want)
	}
	if p.Size() != 3 {
		t.Errorf("size %d, want 3", p.Size())
	}
}

func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	var wg sync.WaitGroup
	for i := range 300 {
		for range 2 { // each image twice in parallel: one block
			wg.Go(func() {
				if _, err := p.Append(t.Context(), artifact(fmt.Sprintf("docker.io/library/i%d:1", i), "x")); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if p.Size() != 300 {
		t.Errorf("size %d, want 300", p.Size())
	}
}

func TestOneWriterPerLedger(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	_, err := OpenWriter(t.Context(), p.path, p.skey, quiet())
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second writer: %v, want a refusal", err)
	}
}

func TestFollowerCopiesVerifiesAndServes(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	f := newFollower(t, p.vkey)
	source := serve(t, p.Ledger)
	for round := range 3 {
		for i := range 150 {
			go func() {
				_, _ = p.Append(context.Background(), artifact(fmt.Sprintf("docker.io/library/r%d:%d", round, i), "x"))
			}()
		}
		p.mustAppend(t, alpine, fmt.Sprint(round))
		for p.Size() < int64(151*(round+1)) {
			<-time.After(10 * time.Millisecond)
		}
		if grown, err := f.Sync(t.Context(), source); err != nil || !grown {
			t.Fatalf("sync: %v, %v", grown, err)
		}
		image, _ := ledger.ParseImage(alpine)
		if e, err := f.Latest(t.Context(), image); err != nil || e.Artifact.Digest != digest.FromString(fmt.Sprint(round)) {
			t.Errorf("round %d: latest %s is %+v, %v", round, alpine, e, err)
		}
	}
	// A second follower copies from the first alone.
	f2 := newFollower(t, p.vkey)
	if _, err := f2.Sync(t.Context(), serve(t, f.Ledger)); err != nil {
		t.Fatal(err)
	}
	verifier, _ := ledger.NewVerifier(p.vkey)
	for _, h := range []int64{0, 200, f2.Size() - 1} {
		entry, proof, err := f2.Block(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ledger.VerifyBlock(verifier, entry.Data, proof)
		if err != nil || b.Height != h {
			t.Errorf("block %d: %v, %v", h, b, err)
		}
	}
	if got, err := f2.Tags(t.Context(), "docker.io/library/alpine", "", 10); err != nil || !cmp.Equal(got, []string{"3.20"}) {
		t.Errorf("tags %v, %v", got, err)
	}
	if got := len(f2.Repositories()); got != 4 {
		t.Errorf("%d repositories, want 4", got)
	}
}

func TestForkIsRefusedWithEvidence(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	f := newFollower(t, p.vkey)
	p.mustAppend(t, alpine, "one")
	p.mustAppend(t, alpine, "two")
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	// The same key on an empty disk: what the fork guard is to prevent.
	fork := &publisher{skey: p.skey, vkey: p.vkey, path: t.TempDir()}
	fork.open(t)
	head, _ := p.Head()
	if err := fork.CheckFloor(t.Context(), head.Signed); !errors.Is(err, ErrBehind) {
		t.Errorf("floor: %v, want ErrBehind", err)
	}
	for i := range 3 {
		fork.mustAppend(t, alpine, fmt.Sprint("other", i))
	}
	if err := fork.CheckFloor(t.Context(), head.Signed); !errors.Is(err, ErrBehind) {
		t.Errorf("floor on a longer fork: %v, want ErrBehind", err)
	}
	if _, err := f.Sync(t.Context(), serve(t, fork.Ledger)); !errors.Is(err, ErrForked) {
		t.Errorf("sync with a fork: %v, want ErrForked", err)
	}
	if kept, _ := os.ReadDir(filepath.Join(f.dir.path, evidenceFolder)); len(kept) != 1 {
		t.Errorf("%d files of evidence, want 1", len(kept))
	}
	if f.Size() != 2 {
		t.Errorf("the verified ledger has %d blocks now, want 2", f.Size())
	}
}

func TestFollowerRefusesAnotherKey(t *testing.T) {
	t.Parallel()
	p, other := newPublisher(t), newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, other.vkey)
	if grown, err := f.Sync(t.Context(), serve(t, p.Ledger)); err == nil || grown {
		t.Errorf("sync with another key's ledger: %v, %v", grown, err)
	}
}

// What a query finds can be read and proven immediately, even while the ledger
// grows.
func TestQueriesNeverRunAheadOfTheHead(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	image, err := ledger.ParseImage(alpine)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			p.mustAppend(t, alpine, fmt.Sprint(i))
		}
	}()
	for {
		if e, err := p.Latest(t.Context(), image); err == nil {
			if _, _, err := p.Block(t.Context(), e.Height); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, ledger.ErrNotFound) {
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	bad := p.mustAppend(t, alpine, "malware")
	good := p.mustAppend(t, alpine, "good")
	now := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	by, err := p.Revoke(t.Context(), bad, "CVE-2026-0001: contains malware", now)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.Revoke(t.Context(), bad, "again", now); err != nil || again != by {
		t.Errorf("revoked again: block %d, %v, want %d", again, err, by)
	}
	for height, reason := range map[int64]string{by: "a revocation", 99: "no such block"} {
		if _, err := p.Revoke(t.Context(), height, reason, now); err == nil {
			t.Errorf("block %d was revoked", height)
		}
	}
	if _, err := p.Revoke(t.Context(), good, "two\nlines", now); err == nil {
		t.Error("a reason of two lines was accepted")
	}
	f := newFollower(t, p.vkey)
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	for height, want := range map[int64]string{bad: "CVE-2026-0001: contains malware", good: ""} {
		e, err := f.Entry(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		revocation, err := f.RevokedBy(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if got := revocation != nil; got != (want != "") || got && revocation.Revocation.Reason != want {
			t.Errorf("block %d: revoked by %+v, want %q", height, revocation, want)
		}
	}
	image, err := ledger.ParseImage(alpine)
	if err != nil {
		t.Fatal(err)
	}
	if history, err := f.History(t.Context(), image, 10); err != nil || len(history) != 2 {
		t.Errorf("history: %v, %v, want both blocks", history, err)
	}
}
