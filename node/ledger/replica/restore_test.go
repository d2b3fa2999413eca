package replica

import (
	"errors"
	"fmt"
	"testing"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// stolenImage is recorded by a thief with a retired key.
const stolenImage = "docker.io/library/evil:1"

// plainThief signs on by the old key alone, from a copy of before the rotation, and
// has more blocks than the publisher.
func (r *rotated) plainThief(t *testing.T) *publisher {
	t.Helper()
	out := r.thief(t, copyDir(t, r.before), r.oldSkey)
	for i := range 6 {
		out.mustAppend(t, stolenImage, fmt.Sprint("plain ", i))
	}
	return out
}

func mustNotHave(t *testing.T, l *Ledger, image string) {
	t.Helper()
	i, err := ledger.ParseImage(image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Latest(t.Context(), i); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("the ledger has %s: %v", image, err)
	}
}

// While both keys sign, a publisher whose disk is lost takes no copy that only
// the old key has signed, because the new one would sign it.
func TestRestoreInTheOverlapGoesByTheNewKey(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	keys := r.oldSkey + "\n" + r.newSkey
	both := &publisher{path: copyDir(t, r.both), skey: keys}
	both.open(t)
	evil, honest := serve(t, r.plainThief(t).Ledger), serve(t, both.Ledger)
	for name, from := range map[string][]torchwood.TileReader{
		"the thief's copy first":  {evil, honest},
		"the thief's copy last":   {honest, evil},
		"the thief's copy, twice": {evil, evil, honest},
	} {
		path := t.TempDir()
		n, err := Restore(t.Context(), path, keys, from, quiet())
		if err != nil || n != both.Size() {
			t.Errorf("%s: %d blocks, %v, want %d", name, n, err, both.Size())
			continue
		}
		w, err := OpenWriter(t.Context(), path, keys, quiet())
		if err != nil {
			t.Fatal(err)
		}
		mustNotHave(t, w.Ledger, stolenImage)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Restore(t.Context(), t.TempDir(), keys, []torchwood.TileReader{evil}, quiet()); !errors.Is(err, ErrNoCopy) {
		t.Errorf("the thief's copy alone: %d blocks, %v", n, err)
	}
}

// In the overlap the ledger on this disk says that the new key has signed: a copy
// that goes on from it by the old key alone, which is all that is reached, does not
// count.
func TestRestoreInTheOverlapKeepsWhatIsOnThisDisk(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	keys := r.oldSkey + "\n" + r.newSkey
	on := r.thief(t, copyDir(t, r.both), r.oldSkey) // from the newest block on
	on.mustAppend(t, stolenImage, "on")
	for name, from := range map[string][]torchwood.TileReader{
		"that forks before":  {serve(t, r.plainThief(t).Ledger)},
		"that goes on":       {serve(t, on.Ledger)},
		"that goes on first": {serve(t, on.Ledger), serve(t, r.plainThief(t).Ledger)},
	} {
		path := copyDir(t, r.both)
		if n, err := Restore(t.Context(), path, keys, from, quiet()); err == nil && n != 3 {
			t.Errorf("a copy %s: %d blocks", name, n)
		}
		w, err := OpenWriter(t.Context(), path, keys, quiet())
		if err != nil {
			t.Fatalf("a copy %s: %v", name, err)
		}
		mustNotHave(t, w.Ledger, stolenImage)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A rotation that begins while restoreFrom is set: no copy has the new key yet, and
// the ledger is on this disk.
func TestRestoreAsARotationBegins(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	next, _ := newKey(t)
	keys := p.skey + "\n" + next
	if n, err := Restore(t.Context(), p.path, keys, []torchwood.TileReader{serve(t, f.Ledger)}, quiet()); err != nil || n < 1 {
		t.Fatalf("%d blocks, %v", n, err)
	}
	if _, err := Restore(t.Context(), t.TempDir(), keys, []torchwood.TileReader{serve(t, f.Ledger)}, quiet()); !errors.Is(err, ErrNoCopy) {
		t.Errorf("onto an empty disk: %v", err)
	}
}
