package replica

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// withoutTime is a checkpoint without the cosignature that says when.
func withoutTime(t *testing.T, vkey string, signed []byte) []byte {
	t.Helper()
	v, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	text, lines, _ := strings.Cut(string(signed), "\n\n")
	for line := range strings.Lines(lines) {
		alone := []byte(text + "\n\n" + line)
		if c, err := ledger.VerifyCheckpoint(v, alone); err == nil && c.Time.IsZero() {
			return alone
		}
	}
	t.Fatal("the key did not sign it")
	return nil
}

// stoppedBefore is a follower that has seen no rotation.
func (r *rotated) stoppedBefore(t *testing.T) *Follower {
	t.Helper()
	f := newFollower(t, r.oldVkey)
	old := &publisher{path: copyDir(t, r.before), skey: r.oldSkey, vkey: r.oldVkey}
	old.open(t)
	mustFollow(t, f, old)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

// A peer that cuts a mirror off from its publisher gives it newer blocks
// without their time: it becomes stale anyway.
func TestTimeIsNotTakenOff(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	for name, vkey := range map[string]string{"the key that signs": r.newVkey, "over a rotation": r.oldVkey} {
		f := newFollower(t, vkey)
		if vkey == r.oldVkey {
			f = r.stoppedBefore(t)
		} else {
			mustFollow(t, f, r.publisher)
		}
		before, _ := f.Head()
		in := func(d time.Duration) time.Duration { return f.Age(time.Now().Add(d)) }
		r.mustAppend(t, alpine, "later "+name)
		head, _ := r.Head()
		grown, err := f.Sync(t.Context(), withCheckpoint(t, r.Ledger, withoutTime(t, r.newVkey, head.Signed)))
		if now, _ := f.Head(); grown || !errors.Is(err, errNoTime) || now.Tree != before.Tree {
			t.Errorf("%s: grown %v to %d blocks, %v", name, grown, now.Tree.N, err)
		}
		if got := in(3 * time.Hour); got < 3*time.Hour-time.Minute {
			t.Errorf("%s: in three hours the ledger is %s old", name, got)
		}
		f = f.reopen(t, vkey)
		if _, err := f.Sync(t.Context(), withCheckpoint(t, r.Ledger, withoutTime(t, r.newVkey, head.Signed))); !errors.Is(err, errNoTime) {
			t.Errorf("%s: after a restart: %v", name, err)
		}
		mustFollow(t, f, r.publisher)
	}
}

// The same blocks again, without the time, change nothing.
func TestTimeOfTheHeadStays(t *testing.T) {
	t.Parallel()
	p, f := aged(t, time.Now().Add(-time.Hour))
	head, _ := p.Head()
	if grown, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, withoutTime(t, p.vkey, head.Signed))); err != nil || grown {
		t.Errorf("grown %v, %v", grown, err)
	}
	if got := f.Age(time.Now()); got < time.Hour-time.Minute {
		t.Errorf("the ledger is %s old", got)
	}
}

// Ledgers of other programs need not say times. Such a one is as old as this node
// has had it, whatever restarts there were.
func TestLedgersWithoutTimesAreFollowed(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	f := newFollower(t, p.vkey)
	for _, text := range []string{"one", "two"} {
		p.mustAppend(t, alpine, text)
		head, _ := p.Head()
		if grown, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, withoutTime(t, p.vkey, head.Signed))); err != nil || !grown {
			t.Fatalf("grown %v, %v", grown, err)
		}
	}
	if got := f.Age(time.Now().Add(2 * time.Hour)); got < 2*time.Hour {
		t.Errorf("in two hours it is %s old", got)
	}
	had := time.Now().Add(-3 * time.Hour)
	if err := os.Chtimes(filepath.Join(f.dir.path, checkpointFile), had, had); err != nil {
		t.Fatal(err)
	}
	f = f.reopen(t, p.vkey)
	if got := f.Age(time.Now()); got < 3*time.Hour-time.Minute {
		t.Errorf("after a restart it is %s old, want 3 h", got)
	}
	// Once it says a time, that counts.
	mustFollow(t, f, p)
	if got := f.Age(time.Now()); got > time.Minute {
		t.Errorf("it is %s old, and was signed now", got)
	}
}
