package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// thief has a key of the ledger, and a copy of what was public at a time. He opens
// the copy as its publisher.
func (p *publisher) thief(t *testing.T, copied string, keys ...string) *publisher {
	t.Helper()
	_, vkey, err := ledger.NewSigner(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	out := &publisher{path: copied, skey: strings.Join(keys, "\n"), vkey: vkey}
	out.openAnyway(t, keys...)
	return out
}

// openAnyway opens a ledger as an attacker does, whose program does not check
// whether its keys still count: the position is from before the hand-over.
func (p *publisher) openAnyway(t *testing.T, keys ...string) {
	t.Helper()
	all, err := ledger.ReadSigningKeys(strings.Join(keys, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(p.path, keysFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := open(t.Context(), p.path, all[0].Key, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	w := &Writer{Ledger: l, signings: newSignings()}
	at := *l.now()
	at.trust = &trust{newest: public(t, all[0]), rotations: at.trust.rotations}
	l.position.Store(&at)
	if err := w.start(t.Context(), all); err != nil {
		t.Fatal(errors.Join(err, w.Close()))
	}
	p.Writer = w
	t.Cleanup(func() { _ = w.Close() })
}

func public(t *testing.T, k ledger.SigningKey) *ledger.Verifier {
	t.Helper()
	out, err := ledger.NewVerifier(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rotated is a publisher that has handed its ledger over, and what there was
// before: the old key, and copies of the ledger with the old key alone.
type rotated struct {
	*publisher
	oldSkey, oldVkey string
	newSkey, newVkey string
	before           string // a copy of the ledger before the rotation
	both             string // and while both signed
}

func newRotated(t *testing.T) *rotated {
	t.Helper()
	r := &rotated{publisher: newPublisher(t)}
	r.oldSkey, r.oldVkey = r.skey, r.vkey
	r.newSkey, r.newVkey = newKey(t)
	r.mustAppend(t, alpine, "one")
	step := func(keys ...string) string {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		out := copyDir(t, r.path)
		r.Writer = nil
		if err := r.reopen(t, keys...); err != nil {
			t.Fatal(err)
		}
		return out
	}
	r.before = step(r.oldSkey, r.newSkey)
	r.mustAppend(t, alpine, "two")
	r.both = step(r.newSkey)
	r.mustAppend(t, alpine, "three")
	return r
}

func mustNewestKey(t *testing.T, f *Follower, want string) {
	t.Helper()
	if got := f.NewestKey(); got != want {
		t.Errorf("the key that counts is %s, want %s", got, want)
	}
}

// The takeover: the holder of a retired key names another successor for it, in
// a copy of the public ledger with an image of their own.
func TestRetiredKeyNamesNobody(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	stolen, stolenV := newKey(t)
	both := r.thief(t, r.both, r.oldSkey, stolen)
	for range 4 {
		both.mustAppend(t, "docker.io/library/evil:1", fmt.Sprint(both.Size()))
	}
	if both.Size() <= r.Size() {
		t.Fatal("the thief's ledger is not larger")
	}
	alone := r.thief(t, copyDir(t, both.path), stolen)
	alone.mustAppend(t, "docker.io/library/evil:1", "and one more")
	image, _ := ledger.ParseImage("docker.io/library/evil:1")
	for name, pinned := range map[string]string{"the old key": r.oldVkey, "the new key": r.newVkey} {
		f := newFollower(t, pinned)
		mustFollow(t, f, r.publisher)
		mustNewestKey(t, f, r.newVkey)
		for i, thief := range []*publisher{both, alone} {
			source := serve(t, thief.Ledger)
			if i == 0 {
				mustRefuse(t, f, source, ledger.EvidenceRetiredKey, r.publisher)
			} else if grown, err := f.Sync(t.Context(), source); !errors.Is(err, ErrRetiredKey) || grown {
				t.Errorf("the thief's key alone: %v, %v", grown, err) // which is no news
			}
			if _, err := f.Latest(t.Context(), image); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("who pinned %s has the thief's image: %v", name, err)
			}
			mustNewestKey(t, f, r.newVkey)
		}
		evidence, err := f.Evidence()
		if err != nil {
			t.Fatal(err)
		}
		misuses := slices.DeleteFunc(evidence, func(e ledger.Evidence) bool { return e.Kind != ledger.EvidenceRetiredKey })
		if len(misuses) != 1 || misuses[0].Key != r.oldVkey {
			t.Errorf("one key is misused, and there are %d pieces of evidence: %+v", len(misuses), misuses)
		}
		for _, e := range misuses {
			if strings.Contains(e.Message, r.newVkey) {
				t.Errorf("who pinned %s takes the publisher's own rotation for a thief's: %s", name, e.Message)
			}
		}
		for _, rotation := range f.Rotations() {
			if strings.Contains(rotation.Entry, stolenV) {
				t.Errorf("who pinned %s hands the thief's rotation on", name)
			}
		}
	}
	// One that comes new, with the old key: the whole public ledger says that it
	// was handed over before, and the first key that was named must have signed.
	for _, thief := range []*publisher{both, alone} {
		f := newFollower(t, r.oldVkey)
		if grown, err := f.Sync(t.Context(), serve(t, thief.Ledger)); err == nil || grown {
			t.Errorf("a new mirror follows the thief: %v, %v", grown, err)
		}
	}
}

// A mirror that was away while the key was rotated follows, with what it hears.
func TestMirrorThatMissedTheRotationFollows(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	mustFollow(t, f, r.publisher)
	mustNewestKey(t, f, r.newVkey)
	evidence, err := f.Evidence()
	if err != nil || len(evidence) != 1 || evidence[0].Kind != ledger.EvidenceNewKey || evidence[0].Key != r.newVkey {
		t.Errorf("the new key was not told: %+v, %v", evidence, err)
	}
	// A reader that pinned it needs no rotation.
	f = newFollower(t, r.newVkey)
	mustFollow(t, f, r.publisher)
	if evidence, err := f.Evidence(); err != nil || len(evidence) != 0 {
		t.Errorf("who pinned the new key is told of %+v, %v", evidence, err)
	}
}

// While both keys sign, the old one alone is worth nothing any more.
func TestOldKeyAloneIsRefusedOnceTheBlockIsThere(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	both := r.thief(t, copyDir(t, r.both), r.oldSkey, r.newSkey)
	mustFollow(t, f, both)
	mustNewestKey(t, f, r.newVkey)
	named := newFollower(t, r.oldVkey)
	mustFollow(t, named, both)
	stolen, _ := newKey(t)
	mustRefuse(t, named, serve(t, r.thief(t, copyDir(t, r.both), r.oldSkey, stolen).Ledger), ledger.EvidenceRetiredKey, both)
	thief := r.thief(t, r.both, r.oldSkey)
	thief.mustAppend(t, "docker.io/library/evil:1", "evil")
	source := serve(t, thief.Ledger)
	mustRefuse(t, f, source, ledger.EvidenceBadSignature, r.publisher) // which somebody may have taken off
	mustRefuse(t, f, source, ledger.EvidenceRetiredKey, r.publisher)   // no: it is another ledger
}

// While both keys sign, anyone can strip the new one's signature: that does not prove
// that somebody else has the old key, neither to a mirror that has followed nor to
// one that has not.
func TestSignatureTakenOffIsNoMisuse(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	old, oldV := p.skey, p.vkey
	p.mustAppend(t, alpine, "one")
	behind := newFollower(t, oldV)
	mustFollow(t, behind, p)
	second, secondV := newKey(t)
	if err := p.reopen(t, old, second); err != nil {
		t.Fatal(err)
	}
	f := newFollower(t, oldV)
	mustFollow(t, f, p)
	p.mustAppend(t, alpine, "two")
	v, err := ledger.NewVerifier(oldV)
	if err != nil {
		t.Fatal(err)
	}
	head, _ := p.Head()
	for _, m := range []*Follower{f, behind} {
		mustRefuse(t, m, withCheckpoint(t, p.Ledger, v.Own(head.Signed)), ledger.EvidenceBadSignature, p)
		mustNewestKey(t, m, secondV)
		if n := m.Refused(ledger.EvidenceRetiredKey); n != 0 {
			t.Errorf("%d refusals for a key that is misused", n)
		}
	}
}

// Mirrors that were given a later key tell those with an earlier one of the hand-over
// as well, also if they were not told the proof at first.
func TestMirrorsOfALaterKeyTellOfTheHandOver(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	began, lost := newFollower(t, r.newVkey), newFollower(t, r.newVkey)
	for _, m := range []*Follower{began, lost} {
		mustFollow(t, m, r.publisher)
	}
	mustRemove(t, lost.dir.path, rotationsFile)
	lost = lost.reopen(t, r.newVkey)
	if n := len(lost.Rotations()); n != 0 {
		t.Fatalf("it has %d proofs", n)
	}
	r.mustAppend(t, alpine, "four")
	mustFollow(t, lost, r.publisher)
	lost = lost.reopen(t, r.newVkey) // they are on the disk
	for _, m := range []*Follower{began, lost} {
		f, witness := r.missedRotation(t), serve(t, m.Ledger)
		f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{witness} }
		if grown, err := f.Sync(t.Context(), serve(t, r.plainThief(t).Ledger)); !errors.Is(err, ErrRetiredKey) || grown {
			t.Errorf("the thief's ledger: %v, %v", grown, err)
		}
		if _, err := f.Sync(t.Context(), witness); err != nil || f.Size() != m.Size() {
			t.Errorf("%d blocks of %d, %v", f.Size(), m.Size(), err)
		}
		mustNewestKey(t, f, r.newVkey)
	}
}

// What a peer that is behind has is not an attack: the old key signed it while it
// counted.
func TestPeerBehindTheRotationIsNoThief(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	behind := newFollower(t, r.oldVkey)
	old := &publisher{path: r.before, skey: r.oldSkey, vkey: r.oldVkey}
	old.open(t)
	mustFollow(t, behind, old)
	f := newFollower(t, r.newVkey)
	mustFollow(t, f, r.publisher)
	if grown, err := f.Sync(t.Context(), serve(t, behind.Ledger)); err != nil || grown {
		t.Errorf("a peer that is behind: %v, %v", grown, err)
	}
	if evidence, err := f.Evidence(); err != nil || len(evidence) != 0 {
		t.Errorf("evidence against a peer that is behind: %+v, %v", evidence, err)
	}
	mustFollow(t, behind, r.publisher)
}

// reopen opens the same copy, with the key that somebody pins now.
func (f *Follower) reopen(t *testing.T, vkey string) *Follower {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFollower(t.Context(), f.dir.path, vkey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}
