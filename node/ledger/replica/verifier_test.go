package replica

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A reader without memory pins one key and trusts what that one names and no
// other: a chain, of which each key is the newest when it hands over.
func TestVerifierFollowsAChainAlone(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	stolen, stolenV := newKey(t)
	thief := r.thief(t, r.before, r.oldSkey, stolen)
	good, evil := r.Rotations(), thief.Rotations()
	if len(good) != 1 || len(evil) != 1 {
		t.Fatal(good, evil)
	}
	for name, tc := range map[string]struct {
		pinned string
		told   []ledger.Rotation
		want   string
	}{
		"the publisher's":              {r.oldVkey, good, r.newVkey},
		"the thief's, by the new key":  {r.newVkey, evil, r.newVkey},
		"both, by the new key":         {r.newVkey, slices.Concat(evil, good), r.newVkey},
		"both, by the old key":         {r.oldVkey, slices.Concat(good, evil), r.oldVkey},
		"both, the thief's first":      {r.oldVkey, slices.Concat(evil, good), r.oldVkey},
		"nobody's":                     {r.oldVkey, []ledger.Rotation{{Entry: "{}", Proof: "x"}}, r.oldVkey},
		"an entry with another proof":  {r.oldVkey, []ledger.Rotation{{Entry: good[0].Entry, Proof: evil[0].Proof}}, r.oldVkey},
		"the publisher's, three times": {r.oldVkey, slices.Concat(good, good, good), r.newVkey},
	} {
		v, err := ledger.NewVerifier(tc.pinned)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.WithAll(tc.told); got.Newest() != tc.want || tc.want == r.newVkey && got.Trusts(stolenV) {
			t.Errorf("%s: the newest key is %s, want %s", name, got.Newest(), tc.want)
		}
	}
}

// A proof that was saved under a key says what to do when that key is retired.
func TestProofOfARetiredKeySaysSo(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	old := &publisher{path: r.before, skey: r.oldSkey, vkey: r.oldVkey}
	old.open(t)
	entry, proof, err := old.Block(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(r.newVkey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.VerifyBlock(v, entry.Data, proof); !errors.Is(err, ledger.ErrOtherKey) || !strings.Contains(err.Error(), "signed by a retired key: fetch it again") {
		t.Errorf("a saved proof: %v", err)
	}
	if entry, proof, err = r.Block(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.VerifyBlock(v, entry.Data, proof); err != nil {
		t.Errorf("fetched again: %v", err)
	}
	if _, err := ledger.VerifyBlock(v, entry.Data, append([]byte{}, proof[:len(proof)-40]...)); err == nil || errors.Is(err, ledger.ErrOtherKey) {
		t.Errorf("a damaged proof: %v", err)
	}
}
