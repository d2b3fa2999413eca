package replica

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// reopen opens the publisher's ledger with other keys.
func (p *publisher) reopen(t *testing.T, skeys ...string) error {
	t.Helper()
	if p.Writer != nil {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p.Writer = nil
	}
	w, err := OpenWriter(t.Context(), p.path, strings.Join(skeys, "\n"), quiet())
	if err != nil {
		return err
	}
	p.Writer = w
	t.Cleanup(func() { _ = w.Close() })
	return nil
}

func newKey(t *testing.T) (skey, vkey string) {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey("ledger.example/test")
	if err != nil {
		t.Fatal(err)
	}
	return skey, vkey
}

// The whole life of a key: alone, together with the next, gone.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	present := newFollower(t, p.vkey) // sees each step
	absent := newFollower(t, p.vkey)  // sees the first and the last
	for _, f := range []*Follower{present, absent} {
		mustFollow(t, f, p)
	}
	second, secondV := newKey(t)
	third, thirdV := newKey(t)

	if err := p.reopen(t, second); err == nil {
		t.Fatal("a key took over that the one before does not know")
	}
	for _, keys := range [][]string{{p.skey, second}, {second}, {second, third}, {third}} {
		if err := p.reopen(t, keys...); err != nil {
			t.Fatal(err)
		}
		p.mustAppend(t, alpine, keys[0][:40]+keys[len(keys)-1][:40])
		mustFollow(t, present, p)
	}
	mustFollow(t, absent, p)
	for name, f := range map[string]*Follower{"present": present, "absent": absent} {
		if got := f.NewestKey(); got != thirdV {
			t.Errorf("the follower that was %s trusts %s, want the third key %s alone", name, got, thirdV)
		}
		if f.Key() != p.vkey {
			t.Errorf("the pinned key is %s now", f.Key())
		}
	}
	// One that begins now, with the first key or with the last; and from a mirror.
	for _, vkey := range []string{p.vkey, secondV, thirdV} {
		f := newFollower(t, vkey)
		if _, err := f.Sync(t.Context(), serve(t, absent.Ledger)); err != nil || f.Size() != absent.Size() {
			t.Errorf("a new follower with key %s: %d blocks, %v", vkey, f.Size(), err)
		}
		// After a restart it trusts what it has learned.
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := OpenFollower(t.Context(), f.dir.path, vkey, quiet())
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		p.mustAppend(t, alpine, "for "+vkey)
		mustFollow(t, again, p)
	}
	// The old key has stopped: what it signs now is worth nothing.
	head, _ := present.Head()
	grown := head.Tree
	grown.N++
	if _, err := present.Sync(t.Context(), withCheckpoint(t, p.Ledger, p.signed(t, head.Origin, grown, head.Time))); err == nil {
		t.Error("a key that was retired signed a checkpoint that was accepted")
	}
	if n := present.Refused(ledger.EvidenceRetiredKey); n != 1 {
		t.Errorf("%d refusals for a retired key, want 1", n)
	}
	// Proofs that were made long ago are good under the key of their time, and
	// those of today under the first key and the rotations.
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	entry, proof, err := present.Block(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.VerifyBlock(v, entry.Data, proof); err == nil {
		t.Error("the first key alone verifies what the third signed")
	}
	if _, err := ledger.VerifyBlock(v.WithAll(present.Rotations()), entry.Data, proof); err != nil {
		t.Error(err)
	}
}

// The keys are recorded once, however often the publisher starts with both.
func TestRotationIsRecordedOnce(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	second, secondV := newKey(t)
	for range 3 {
		if err := p.reopen(t, p.skey, second); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	for h := range p.Size() {
		e, err := p.Entry(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		if e.Rotation != nil {
			keys = append(keys, e.Rotation.Key)
		}
	}
	if diff := cmp.Diff([]string{secondV}, keys); diff != "" {
		t.Error(diff)
	}
}

// Only the key that has the ledger can hand it over.
func TestForgedRotationIsRefused(t *testing.T) {
	t.Parallel()
	p, thief := newPublisher(t), newPublisher(t)
	p.mustAppend(t, alpine, "one")
	stolen, _ := newKey(t)
	if err := thief.reopen(t, thief.skey, stolen); err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range thief.Rotations() {
		if _, err := v.With(r); err == nil {
			t.Error("a rotation was believed that another key signed")
		}
	}
	// A key that was retired must not come back by the block that once named it.
	second, _ := newKey(t)
	third, thirdV := newKey(t)
	for _, keys := range [][]string{{p.skey, second}, {second}, {second, third}, {third}} {
		if err := p.reopen(t, keys...); err != nil {
			t.Fatal(err)
		}
	}
	f := newFollower(t, thirdV)
	mustFollow(t, f, p)
	if got := f.NewestKey(); got != thirdV {
		t.Errorf("who pinned the third key trusts %s", got)
	}
	entry, proof, err := f.Block(t.Context(), 1)
	if err != nil || entry.Rotation == nil {
		t.Fatal(entry, err)
	}
	if _, err := f.now().trust.newest.With(ledger.Rotation{Entry: string(entry.Data), Proof: string(proof)}); err == nil {
		t.Error("the rotation to the second key was believed under the third key's signature")
	}
}

// A mirror that pins another key of the same ledger keeps what was verified:
// the new key's ledger must contain it.
func TestPinningTheNextKeyKeepsTheHistory(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	second, secondV := newKey(t)
	for _, keys := range [][]string{{p.skey, second}, {second}} {
		if err := p.reopen(t, keys...); err != nil {
			t.Fatal(err)
		}
	}
	again, err := OpenFollower(t.Context(), f.dir.path, secondV, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	// A ledger of that key which does not contain it is a fork.
	fork := &publisher{skey: second, vkey: secondV, path: t.TempDir()}
	fork.open(t)
	for _, content := range []string{"other", "another", "and another"} {
		fork.mustAppend(t, alpine, content)
	}
	if _, err := again.Sync(t.Context(), serve(t, fork.Ledger)); !errors.Is(err, ErrForked) {
		t.Errorf("a ledger of the new key that does not contain what was verified: %v", err)
	}
	mustFollow(t, again, p)
	// Of another origin it is another ledger: refused, and nothing is touched.
	_, stranger, err := ledger.GenerateKey("ledger.example/other")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFollower(t.Context(), f.dir.path, stranger, quiet()); err == nil {
		t.Error("another ledger's key opened this one")
	}
}

func TestSigningKeysThatDoNotFit(t *testing.T) {
	t.Parallel()
	one, _ := newKey(t)
	other, _, err := ledger.GenerateKey("ledger.example/other")
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]string{
		"none": "", "not a key": "hello", "two origins": one + "\n" + other, "one twice": one + "\n" + one, "three": one + "\n" + one + "\n" + one,
	} {
		if _, err := OpenWriter(t.Context(), t.TempDir(), keys, quiet()); err == nil || strings.Contains(err.Error(), "PRIVATE+KEY+ledger") {
			t.Errorf("%s: %v, want a refusal that does not hold the key", name, err)
		}
	}
}

// A state that is behind the signed checkpoint, damaged or gone is made again:
// nothing that was signed is taken back.
func TestIntegratedStateIsRecovered(t *testing.T) {
	t.Parallel()
	old := []byte(`{"size":0,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`)
	for name, damage := range map[string]func(file string) error{
		"gone":        os.Remove,
		"rolled back": func(file string) error { return os.WriteFile(file, old, 0o644) },
		"truncated":   func(file string) error { return os.Truncate(file, 7) },
		"another root": func(file string) error {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			data[len(data)-10] ^= 1
			return os.WriteFile(file, data, 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher(t)
			p.mustAppend(t, alpine, "one")
			p.mustAppend(t, alpine, "two")
			f := newFollower(t, p.vkey)
			mustFollow(t, f, p)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(p.path, stateFile)); err != nil {
				t.Fatal(err)
			}
			p.open(t)
			if got := p.mustAppend(t, alpine, "three"); got != 2 {
				t.Errorf("block %d, want 2", got)
			}
			mustFollow(t, f, p)
		})
	}
}

// What a crash leaves beyond the integrated tree is never served.
func TestLeftoversOfACrashAreRemoved(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	left := []string{"tile/entries/000.p/7", "tile/entries/000", "tile/entries/0001234567", "tile/0/000.p/21234", "checkpoint77", ".new-1", ".state/treeState5"}
	for _, name := range left {
		if err := os.WriteFile(filepath.Join(p.path, name), []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.open(t)
	for _, name := range left {
		if _, err := os.Stat(filepath.Join(p.path, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if got := p.mustAppend(t, alpine, "two"); got != 1 {
		t.Errorf("block %d, want 1", got)
	}
}

// A damaged disk is never signed: the append fails, and says what is damaged.
func TestDamagedTreeIsNotSigned(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	for _, content := range []string{"one", "two", "three"} {
		p.mustAppend(t, alpine, content)
	}
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	before, _ := p.Head()
	tile := filepath.Join(p.path, "tile/0/000.p/3")
	data, err := os.ReadFile(tile)
	if err != nil {
		t.Fatal(err)
	}
	data[40] ^= 1
	if err := os.WriteFile(tile, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Append(t.Context(), artifact(alpine, "four")); !errors.Is(err, ErrDamaged) {
		t.Errorf("an append to a damaged tree: %v, want ErrDamaged", err)
	}
	if after, _ := p.Head(); after.Tree != before.Tree {
		t.Errorf("a damaged tree became the head: %v", after.Tree)
	}
	onDisk, err := os.ReadFile(filepath.Join(p.path, checkpointFile))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := p.VerifyCheckpoint(onDisk); err != nil || c.Tree != before.Tree {
		t.Errorf("signed on disk: %v, %v", c.Tree, err)
	}
}
