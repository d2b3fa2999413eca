package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const alpineRepository = "docker.io/library/alpine"

func mustParse(t *testing.T, name string) ledger.Image {
	t.Helper()
	image, err := ledger.ParseImage(name)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func (p *publisher) mustWithdraw(t *testing.T, content string) int64 {
	t.Helper()
	height, err := p.RevokeDigest(t.Context(), alpineRepository, digest.FromString(content), "contains malware", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return height
}

// checkWithdrawn checks which blocks are withdrawn, and that this ledger's
// follower thinks the same.
func (p *publisher) checkWithdrawn(t *testing.T, want map[int64]bool) {
	t.Helper()
	f := newFollower(t, p.vkey)
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Ledger{"publisher": p.Ledger, "follower": f.Ledger} {
		for height, withdrawn := range want {
			e, err := l.Entry(t.Context(), height)
			if err != nil {
				t.Fatal(err)
			}
			if by, err := l.RevokedBy(t.Context(), e); err != nil || (by != nil) != withdrawn {
				t.Errorf("%s: block %d is withdrawn by %+v, %v, want %v", name, height, by, err, withdrawn)
			}
		}
	}
}

// A withdrawn digest stays withdrawn: when its tag moves away and back, under
// another tag, and in a block that came by another way. Another repository's
// digest is not concerned.
func TestWithdrawnMeansWithdrawn(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	bad := digest.FromString("bad")
	first := p.mustAppend(t, alpine, "bad")
	other := p.mustAppend(t, "docker.io/library/busybox:1", "bad")
	moved := p.mustAppend(t, alpine, "good")
	back := p.mustAppend(t, alpine, "bad")
	by := p.mustWithdraw(t, "bad")
	if again := p.mustWithdraw(t, "bad"); again != by {
		t.Errorf("withdrawn again: block %d, want %d", again, by)
	}
	p.checkWithdrawn(t, map[int64]bool{first: true, other: false, moved: false, back: true})

	// The tag moves away, and would come back; another tag would get the digest.
	p.mustAppend(t, alpine, "better")
	for _, image := range []string{alpine, "docker.io/library/alpine:other", "registry-1.docker.io/library/alpine:3.20"} {
		_, err := p.Append(t.Context(), artifact(image, "bad"))
		if withdrawn, ok := errors.AsType[*ledger.WithdrawnError](err); !ok || !strings.Contains(withdrawn.Error(), "contains malware") {
			t.Errorf("%s: %v, want that it is withdrawn", image, err)
		}
	}
	if _, err := p.AppendAfter(t.Context(), artifact(alpine, "bad"), p.Size()); err == nil {
		t.Error("what was seen at the upstream was appended")
	}

	// A publisher of version 0.1.0 does not know the withdrawal, and appends.
	data, err := artifact("docker.io/library/alpine:late", "bad").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	late, err := p.append(t.Context(), "late", data, func() (*ledger.Entry, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	p.checkWithdrawn(t, map[int64]bool{late: true})
	e, err := p.Standing(t.Context(), alpineRepository, bad)
	if _, ok := errors.AsType[*ledger.WithdrawnError](err); !ok {
		t.Errorf("standing block: %+v, %v", e, err)
	}
	if tags, err := p.StandingTags(t.Context(), alpineRepository, "", 10); err != nil || !slices.Equal(tags, []string{"3.20"}) {
		t.Errorf("standing tags: %v, %v", tags, err)
	}
}

// Mirrors of version 0.1.0 know blocks of version 1 alone: each block of a
// withdrawn digest has one, however old it is, however many there are, and also
// if the publisher was killed before it had appended them.
func TestWithdrawnForOldMirrorsToo(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	blocks := make([]int64, 300) // more than one page of the index
	var group sync.WaitGroup
	for i := range blocks {
		group.Go(func() {
			height, err := p.Append(t.Context(), artifact(fmt.Sprintf("docker.io/library/alpine:tag-%d", i), "bad"))
			if err != nil {
				t.Error(err)
			}
			blocks[i] = height
		})
	}
	group.Wait()
	// Killed right after the first block.
	e := &ledger.RevokeDigest{Type: ledger.TypeRevokeArtifact, Version: 2, Repository: alpineRepository, Digest: digest.FromString("bad"),
		Reason: "contains malware", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.append(t.Context(), "a withdrawal", data, func() (*ledger.Entry, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	size := p.Size()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.open(t)
	if p.Size() != size+int64(len(blocks)) {
		t.Errorf("%d blocks after the start, want %d more than %d", p.Size(), len(blocks), size)
	}
	for _, height := range blocks {
		e, err := p.Entry(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		if by, err := p.revocation(t.Context(), e); err != nil || by == nil || by.Revocation.Reason != "contains malware" {
			t.Errorf("block %d is revoked by %+v, %v", height, by, err)
		}
	}
}

// Only a RestoreArtifact brings a digest back, with a block of its own; and it
// can be withdrawn again.
func TestRestore(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	bad := digest.FromString("bad")
	restore := func() (int64, error) {
		return p.RestoreArtifact(t.Context(), alpineRepository, bad, "it was a false alarm", time.Now())
	}
	if height, err := restore(); err == nil {
		t.Errorf("restored by block %d what was not withdrawn", height)
	}
	first := p.mustAppend(t, alpine, "bad")
	p.mustWithdraw(t, "bad")
	lifted, err := restore()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := restore(); err != nil || again != lifted {
		t.Errorf("restored again: block %d, %v, want %d", again, err, lifted)
	}
	p.checkWithdrawn(t, map[int64]bool{first: true})
	second := p.mustAppend(t, alpine, "bad")
	if second <= lifted {
		t.Errorf("the restored image is block %d", second)
	}
	p.checkWithdrawn(t, map[int64]bool{first: true, second: false})
	p.mustWithdraw(t, "bad")
	p.checkWithdrawn(t, map[int64]bool{first: true, second: true})
	if _, err := p.Append(t.Context(), artifact(alpine, "bad")); err == nil {
		t.Error("withdrawn twice, restored once, and published")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.open(t)
	p.checkWithdrawn(t, map[int64]bool{first: true, second: true})
}

// What version 0.1.0 revoked keeps its meaning: one block is withdrawn, and a
// later one is not. The digest is not published again all the same.
func TestRevocationsOfVersion1KeepTheirMeaning(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	first := p.mustAppend(t, alpine, "bad")
	moved := p.mustAppend(t, alpine, "good")
	back := p.mustAppend(t, alpine, "bad")
	if _, err := p.Revoke(t.Context(), first, "contains malware", time.Now()); err != nil {
		t.Fatal(err)
	}
	p.checkWithdrawn(t, map[int64]bool{first: true, moved: false, back: false})
	if height := p.mustAppend(t, alpine, "bad"); height != back {
		t.Errorf("the newest block stands, and got block %d", height)
	}
	if _, err := p.Append(t.Context(), artifact("docker.io/library/alpine:2", "bad")); err == nil {
		t.Error("a revoked digest got another tag")
	}
}

// One platform of an image can be withdrawn alone.
func TestWithdrawnPlatform(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	a := artifact(alpine, "index")
	good := ledger.Platform{Platform: "linux/arm64", Digest: digest.FromString("arm"), Config: digest.FromString("arm/c"), Size: 1}
	bad := a.Platforms[0]
	a.Platforms = append(a.Platforms, good)
	height, err := p.Append(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	by, err := p.RevokeDigest(t.Context(), alpineRepository, bad.Digest, "built on a bad machine", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	block, err := p.Entry(t.Context(), height)
	if err != nil {
		t.Fatal(err)
	}
	for d, withdrawn := range map[digest.Digest]bool{a.Digest: false, good.Digest: false, good.Config: false, bad.Digest: true, bad.Config: true} {
		if e, err := p.RevokedIn(t.Context(), block, d); err != nil || (e != nil) != withdrawn || e != nil && e.Height != by {
			t.Errorf("%s is withdrawn by %+v, %v, want %v", d, e, err, withdrawn)
		}
	}
	if tags, err := p.StandingTags(t.Context(), alpineRepository, "", 10); err != nil || len(tags) != 1 {
		t.Errorf("standing tags: %v, %v", tags, err)
	}
	answer := httptest.NewRecorder()
	p.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/api/v1/artifacts?image=alpine:3.20", nil))
	if body := answer.Body.String(); !strings.Contains(body, `"withdrawn":[{"digest":"`+bad.Digest.String()) || strings.Contains(body, "revokedBy") {
		t.Errorf("the query says %s", body)
	}
}

// A digest that is withdrawn while it is being published has no valid block,
// whichever comes first.
func TestWithdrawnWhileItIsPublished(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	for round := range 3 {
		content := fmt.Sprint("bad ", round)
		var group sync.WaitGroup
		for tag := range 20 {
			group.Go(func() {
				// Half of the callers are gone before they have an answer.
				ctx, cancel := context.WithCancel(t.Context())
				if tag%2 == 0 {
					time.AfterFunc(10*time.Millisecond, cancel)
				}
				defer cancel()
				_, _ = p.Append(ctx, artifact(fmt.Sprintf("docker.io/library/alpine:%d", tag), content))
			})
		}
		group.Go(func() {
			time.Sleep(time.Duration(round) * 20 * time.Millisecond)
			if _, err := p.RevokeDigest(t.Context(), alpineRepository, digest.FromString(content), "contains malware", time.Now()); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
		p.adds.Wait()
		for e, err := range p.Naming(t.Context(), digest.FromString(content)) {
			if err != nil {
				t.Fatal(err)
			}
			if by, err := p.revocation(t.Context(), e); err != nil || by == nil {
				t.Errorf("block %d is revoked by %+v, %v", e.Height, by, err)
			}
		}
	}
}

// Withdrawals wait for nothing that is about other digests, and nothing of that
// waits for them: however many come, the next one takes no longer.
func TestWithdrawalsDoNotWaitForOthers(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "first")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// An append is under way, and does not end.
	asked, release := make(chan struct{}), make(chan struct{})
	appended := make(chan error, 1)
	go func() {
		_, err := p.appendUnless(ctx, artifact(alpine, "slow"), func(*ledger.Entry) (bool, error) {
			close(asked)
			<-release
			return false, nil
		})
		appended <- err
	}()
	<-asked
	withdrawn := make(chan error, 1)
	go func() {
		_, err := p.RevokeDigest(ctx, alpineRepository, digest.FromString("bad"), "contains malware", time.Now())
		withdrawn <- err
	}()
	// A withdrawal is under way, and does not end.
	stuck := digest.FromString("stuck")
	free, err := p.appending.Take(ctx, alpineRepository+"@"+stuck.String())
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	go func() {
		_, err := p.RevokeDigest(ctx, alpineRepository, stuck, "contains malware", time.Now())
		released <- err
	}()
	other := make(chan error, 1)
	go func() {
		_, err := p.Append(ctx, artifact("docker.io/library/alpine:other", "good"))
		other <- err
	}()
	for what, ended := range map[string]chan error{"the withdrawal": withdrawn, "the publication": other} {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-ctx.Done():
			t.Errorf("%s waits for what is about other digests", what)
		}
	}
	close(release)
	free()
	for _, ended := range []chan error{appended, released} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	p.adds.Wait()
	if n := len(p.withdrawing.locks); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

func TestVerifyWithdrawal(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	d := digest.FromString("bad")
	first := p.mustAppend(t, alpine, "bad")
	all := p.mustWithdraw(t, "bad")
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	image := mustParse(t, alpine)
	elsewhere := mustParse(t, "busybox:1")
	for height, targets := range map[int64]map[ledger.Target]bool{
		all:     {{Image: image, Digest: d, Block: first}: true, {Image: mustParse(t, "alpine:other"), Digest: d, Block: -1}: true, {Image: elsewhere, Digest: d, Block: first}: false, {Image: image, Digest: digest.FromString("good"), Block: first}: false},
		all + 1: {{Image: image, Digest: d, Block: first}: true, {Image: image, Digest: d, Block: -1}: false, {Image: image, Digest: d, Block: first + 1}: false, {Image: elsewhere, Digest: d, Block: first}: false, {Image: mustParse(t, "alpine:other"), Digest: d, Block: first}: false},
		first:   {{Image: image, Digest: d, Block: first}: false},
	} {
		e, proof, err := p.Block(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		for target, want := range targets {
			_, reason, err := ledger.VerifyWithdrawal(v, e.Data, proof, target)
			if (err == nil) != want || want && reason != "contains malware" {
				t.Errorf("block %d withdraws %+v: %q, %v, want %v", height, target, reason, err, want)
			}
		}
	}
}
