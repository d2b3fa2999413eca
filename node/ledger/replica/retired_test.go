package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// missedRotation is a mirror that pinned the old key, and has what there was before
// the rotation.
func (r *rotated) missedRotation(t *testing.T) *Follower {
	t.Helper()
	f := newFollower(t, r.oldVkey)
	old := &publisher{path: copyDir(t, r.before), skey: r.oldSkey, vkey: r.oldVkey}
	old.open(t)
	mustFollow(t, f, old)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	return f.reopen(t, r.oldVkey)
}

// otherThief cuts the ledger before the rotation too, and names a key of his own.
func (r *rotated) otherThief(t *testing.T, stolen string) *publisher {
	t.Helper()
	out := r.thief(t, copyDir(t, r.before), r.oldSkey, stolen)
	for i := range 5 {
		out.mustAppend(t, stolenImage, fmt.Sprint("handed over ", i))
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	out.openAnyway(t, stolen)
	return out
}

func mustHaveEvidence(t *testing.T, f *Follower, kind ledger.EvidenceKind, key string) {
	t.Helper()
	evidence, err := f.Evidence()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range evidence {
		if e.Kind == kind && e.Key == key {
			return
		}
	}
	t.Errorf("no evidence %s of the key %s in %+v", kind, key, evidence)
}

// A reader that knows that a key has handed the ledger over no longer follows
// anything that only this key signs, however it begins, and after a restart too.
func TestKeyThatHasHandedOverSignsNothing(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	stolen, _ := newKey(t)
	plain, honest, evil := r.plainThief(t), serve(t, r.publisher.Ledger), serve(t, r.otherThief(t, stolen).Ledger)
	for name, others := range map[string][]torchwood.TileReader{"one successor": {honest}, "two successors": {honest, evil}} {
		f := r.missedRotation(t)
		size := f.Size()
		f.Others = func() []torchwood.TileReader { return others }
		for range 2 {
			if grown, err := f.Sync(t.Context(), serve(t, plain.Ledger)); err == nil || grown {
				t.Errorf("%s: a retired key was followed: %v, %v", name, grown, err)
			}
			mustNotHave(t, f.Ledger, stolenImage)
			if f.Size() != size {
				t.Errorf("%s: %d blocks, it had %d", name, f.Size(), size)
			}
			f = f.reopen(t, r.oldVkey) // and then no other source is there to ask
		}
		evidence, err := f.Evidence()
		if err != nil || len(evidence) == 0 || evidence[0].Kind != ledger.EvidenceRetiredKey && evidence[0].Kind != ledger.EvidenceTwoSuccessors {
			t.Errorf("%s: evidence %+v, %v", name, evidence, err)
		}
	}
}

// A mirror that comes new, with the old key, asks the others before it takes what a
// thief offers first.
func TestNewMirrorAsksBeforeItsFirstCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	honest := serve(t, r.publisher.Ledger)
	f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{honest} }
	if grown, err := f.Sync(t.Context(), serve(t, r.plainThief(t).Ledger)); !errors.Is(err, ErrRetiredKey) || grown {
		t.Errorf("the thief's ledger: %v, %v", grown, err)
	}
	mustFollow(t, f, r.publisher)
	mustNewestKey(t, f, r.newVkey)
	mustNotHave(t, f.Ledger, stolenImage)
}

// A mirror that ran on, cut off from all others, while the key was rotated asks them
// again before it takes a block by the old key, or believes that this key is alive.
func TestMirrorThatWasCutOffAsksAgain(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	thief := r.plainThief(t)
	honest := serve(t, r.publisher.Ledger)
	for name, offers := range map[string]func(f *Follower) *client.Client{
		"a block": func(*Follower) *client.Client { return serve(t, thief.Ledger) },
		"the same blocks, signed again": func(f *Follower) *client.Client {
			had, _ := f.Head()
			old := &publisher{skey: r.oldSkey, vkey: r.oldVkey}
			return withCheckpoint(t, f.Ledger, old.signed(t, had.Origin, had.Tree, had.Time.Add(time.Minute)))
		},
	} {
		f := r.missedRotation(t)
		f.heard.asked[r.oldVkey] = true // asked before the hand-over
		f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{honest} }
		at := *f.now()
		at.since = at.since.Add(-2 * silence)
		f.position.Store(&at)
		before, _ := f.Head()
		for range 2 {
			if grown, _ := f.Sync(t.Context(), offers(f)); grown {
				t.Errorf("%s: the mirror has grown", name)
			}
		}
		if after, _ := f.Head(); !after.Time.Equal(before.Time) {
			t.Errorf("%s: the old key counts as alive", name)
		}
		mustNotHave(t, f.Ledger, stolenImage)
		mustFollow(t, f, r.publisher)
	}
}

// What a key signs that has handed the ledger over is not held against the publisher,
// if it contradicts what was verified.
func TestContradictionByARetiredKeyIsNotThePublishers(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := r.missedRotation(t)
	honest := serve(t, r.publisher.Ledger)
	f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{honest} }
	head, _ := f.Head()
	fork := r.thief(t, t.TempDir(), r.oldSkey)
	for i := range 3 {
		fork.mustAppend(t, stolenImage, fmt.Sprint("fork ", i))
	}
	other := head.Tree
	other.Hash[0] ^= 1
	old := &publisher{skey: r.oldSkey, vkey: r.oldVkey}
	for name, source := range map[string]*client.Client{
		"larger":   serve(t, fork.Ledger),
		"as large": withCheckpoint(t, fork.Ledger, old.signed(t, head.Origin, other, time.Now())),
	} {
		if grown, err := f.Sync(t.Context(), source); err == nil || grown {
			t.Errorf("%s: %v, %v", name, grown, err)
		}
	}
	mustHaveEvidence(t, f, ledger.EvidenceRetiredKey, r.oldVkey)
	if n := f.Refused(ledger.EvidenceFork); n != 0 {
		t.Errorf("%d forks by the publisher", n)
	}
	mustFollow(t, f, r.publisher)
}

// A peer that is behind has blocks from before the hand-over: that is not
// misuse.
func TestPeerBehindTheHandOverIsNoThief(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	honest := serve(t, r.publisher.Ledger)
	f := newFollower(t, r.oldVkey)
	f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{honest} }
	behind := r.missedRotation(t)
	if grown, err := f.Sync(t.Context(), serve(t, behind.Ledger)); !errors.Is(err, errBefore) || grown {
		t.Errorf("a peer that is behind: %v, %v", grown, err)
	}
	if evidence, err := f.Evidence(); err != nil || len(evidence) != 0 {
		t.Errorf("evidence against a peer that is behind: %+v, %v", evidence, err)
	}
	mustFollow(t, f, r.publisher)
}

// The cure: a mirror that has followed a thief and is given the publisher's key sets
// the thief's ledger aside, be it larger or smaller, and follows the publisher.
func TestPinningThePublishersKeyBringsBack(t *testing.T) {
	t.Parallel()
	for _, larger := range []bool{true, false} {
		for _, named := range []bool{true, false} {
			t.Run(fmt.Sprintf("the thief's is larger %v, and names a key %v", larger, named), func(t *testing.T) {
				t.Parallel()
				r := newRotated(t)
				f := r.missedRotation(t)
				var thief *publisher
				if named {
					stolen, _ := newKey(t)
					thief = r.otherThief(t, stolen)
				} else {
					thief = r.plainThief(t)
				}
				mustFollow(t, f, thief)
				for i := range 10 {
					if !larger {
						r.mustAppend(t, alpine, fmt.Sprint("later ", i))
					}
				}
				f = f.reopen(t, r.newVkey)
				mustNotHave(t, f.Ledger, stolenImage)
				mustFollow(t, f, r.publisher)
				mustNewestKey(t, f, r.newVkey)
				mustNotHave(t, f.Ledger, stolenImage)
				mustHaveEvidence(t, f, ledger.EvidenceRetiredKey, r.oldVkey)
				if aside, err := filepath.Glob(filepath.Join(f.dir.path, "refused-*", checkpointFile)); err != nil || len(aside) != 1 {
					t.Errorf("the thief's ledger was not kept: %v, %v", aside, err)
				}
				for range 2 {
					f = f.reopen(t, r.newVkey)
					r.mustAppend(t, alpine, "and on")
					mustFollow(t, f, r.publisher)
				}
				if problems, blocks, err := checkCopy(t, f, r.newVkey); err != nil || len(problems) != 0 || blocks != r.Size() {
					t.Errorf("%d blocks, %+v, %v", blocks, problems, err)
				}
			})
		}
	}
}

func checkCopy(t *testing.T, f *Follower, vkey string) ([]Problem, int64, error) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return (&Check{Path: f.dir.path, Key: vkey}).Run(t.Context())
}

// A retired key sets nothing aside: a mirror that pins it again, even with its
// record of the keys lost, keeps the publisher's ledger.
func TestRetiredKeySetsNothingAside(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.newVkey)
	mustFollow(t, f, r.publisher)
	mustRemove(t, f.dir.path, keysFile) // it was told no proofs
	f = f.reopen(t, r.oldVkey)
	if _, err := f.Sync(t.Context(), serve(t, r.plainThief(t).Ledger)); err == nil {
		t.Error("the thief's ledger took the place of the publisher's")
	}
	mustNotHave(t, f.Ledger, stolenImage)
	mustFollow(t, f, r.publisher)
	mustNewestKey(t, f, r.newVkey)
}

// resigningThief signs a copy of the whole ledger, and what he adds to it, by the old
// key alone: his program does not mind the hand-over in it.
func (r *rotated) resigningThief(t *testing.T) *publisher {
	t.Helper()
	path := copyDir(t, r.path)
	mustRemove(t, path, keysFile)
	head, _ := r.Head()
	text, _, _ := strings.Cut(string(head.Signed), "\n\n")
	signer, _, err := ledger.NewSigner(r.oldSkey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: text + "\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, checkpointFile), signed, 0o644); err != nil {
		t.Fatal(err)
	}
	out := r.thief(t, path, r.oldSkey)
	for i := range 6 {
		out.mustAppend(t, stolenImage, fmt.Sprint("signed on ", i))
	}
	return out
}

// What an earlier version has verified is believed once, with an alarm: a checkpoint
// that a retired key signed and that comes later to a disk is not.
func TestRetiredCheckpointOnDiskIsNotBelieved(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	mustFollow(t, f, r.publisher)
	thief := r.resigningThief(t)
	if err := errors.Join(f.Close(), thief.Close()); err != nil {
		t.Fatal(err)
	}
	path := copyDir(t, thief.path)
	data, err := os.ReadFile(filepath.Join(f.dir.path, keysFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, keysFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err = OpenFollower(t.Context(), path, r.oldVkey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustNotHave(t, f.Ledger, stolenImage)
	mustFollow(t, f, r.publisher)
	mustNewestKey(t, f, r.newVkey)
	mustHaveEvidence(t, f, ledger.EvidenceRetiredKey, r.oldVkey)
}
