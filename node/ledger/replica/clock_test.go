package replica

import (
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// aged is a follower whose head of two blocks was signed at a time.
func aged(t *testing.T, at time.Time) (p *publisher, f *Follower) {
	t.Helper()
	p = newPublisher(t)
	p.mustAppend(t, alpine, "one")
	p.mustAppend(t, alpine, "two")
	head, _ := p.Head()
	f = newFollower(t, p.vkey)
	if _, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, p.signed(t, head.Origin, head.Tree, at))); err != nil {
		t.Fatal(err)
	}
	return p, f
}

// older is the ledger of one block, as p's key signs it at a time.
func (p *publisher) older(t *testing.T, f *Follower, at time.Time) []byte {
	t.Helper()
	head, _ := f.Head()
	root, err := f.rootAt(t.Context(), head.Tree, 1)
	if err != nil {
		t.Fatal(err)
	}
	return p.signed(t, head.Origin, tlog.Tree{N: 1, Hash: root}, at)
}

// Fewer blocks, signed later: the publisher's disk was rolled back.
func TestRollbackIsRefused(t *testing.T) {
	t.Parallel()
	p, f := aged(t, time.Now().Add(-time.Hour))
	mustRefuse(t, f, withCheckpoint(t, p.Ledger, p.older(t, f, time.Now())), ledger.EvidenceRollback, p)
}

// A publisher whose clock was an hour, or years, ahead signed one block. Its
// clock was corrected, and it went on. What it signed with the wrong clock
// proves nothing against it.
func TestTimesFromTheFutureConvictNobody(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{time.Hour, 10 * 365 * 24 * time.Hour} {
		p, f := aged(t, time.Now())
		if grown, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, p.older(t, f, time.Now().Add(ahead)))); err != nil || grown {
			t.Errorf("a smaller ledger, signed %s ahead: grown %v, %v", ahead, grown, err)
		}
		if n := f.Refused(ledger.EvidenceRollback); n != 0 {
			t.Errorf("an honest publisher was convicted %d times", n)
		}
	}
}

// The head itself says a time that has not come: the next true signature takes
// its place, and it does not come back.
func TestTimeFromTheFutureIsReplaced(t *testing.T) {
	t.Parallel()
	future := time.Now().Add(365 * 24 * time.Hour).Truncate(time.Second)
	p, f := aged(t, future)
	head, _ := f.Head()
	if !head.Time.Equal(future) || !head.Said(time.Now()).IsZero() {
		t.Fatalf("the head was signed at %s, and says %s", head.Time, head.Said(time.Now()))
	}
	if got := head.Said(future); !got.Equal(future) {
		t.Errorf("once the time has come it says %s", got)
	}
	poisoned := withCheckpoint(t, p.Ledger, head.Signed)
	mustFollow(t, f, p)
	for range 2 {
		if head, _ = f.Head(); head.Said(time.Now()).IsZero() {
			t.Fatalf("the head says %s still", head.Time)
		}
		if _, err := f.Sync(t.Context(), poisoned); err != nil {
			t.Error(err)
		}
	}
}

// Acknowledged evidence is kept and raises no alarm; later evidence does.
func TestEvidenceIsAcknowledged(t *testing.T) {
	t.Parallel()
	p, f := aged(t, time.Now().Add(-time.Hour))
	offer := func() {
		t.Helper()
		if _, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, p.older(t, f, time.Now()))); err == nil {
			t.Fatal("a rollback was not refused")
		}
	}
	unacknowledged := func() (n int) {
		t.Helper()
		evidence, err := f.Evidence()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range evidence {
			if !e.Acknowledged {
				n++
			}
		}
		return n
	}
	offer()
	if got := unacknowledged(); got != 1 {
		t.Fatalf("%d pieces of evidence, want 1", got)
	}
	if err := Acknowledge(f.dir.path, time.Now()); err != nil {
		t.Fatal(err)
	}
	offer() // the same, by another peer, and signed again
	if got := unacknowledged(); got != 0 {
		t.Errorf("%d pieces of evidence after somebody has looked at it, want 0", got)
	}
	fork := p.signed(t, f.Origin(), tlog.Tree{N: 2, Hash: tlog.Hash{1}}, time.Now())
	mustRefuse(t, f, withCheckpoint(t, p.Ledger, fork), ledger.EvidenceFork, p)
	if got := unacknowledged(); got != 1 {
		t.Errorf("%d alarms after a fork, want 1", got)
	}
}

// However much was kept, a new alarm finds its place once the old ones are
// acknowledged.
func TestAcknowledgedEvidenceMakesRoom(t *testing.T) {
	t.Parallel()
	_, f := aged(t, time.Now())
	keep := func(i int64) {
		t.Helper()
		if err := f.keepEvidence(ledger.Evidence{Kind: ledger.EvidenceFork, Received: time.Unix(i, 0).String()}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(maxEvidence + 2) {
		keep(i)
	}
	if err := Acknowledge(f.dir.path, time.Now()); err != nil {
		t.Fatal(err)
	}
	keep(1000)
	evidence, err := f.Evidence()
	if err != nil || len(evidence) != maxEvidence {
		t.Fatalf("%d pieces are kept, %v, want %d", len(evidence), err, maxEvidence)
	}
	if newest := evidence[len(evidence)-1]; newest.Acknowledged || newest.Received != time.Unix(1000, 0).String() {
		t.Errorf("the newest piece is %+v", newest)
	}
}
