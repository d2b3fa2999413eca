package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ErrRetiredKey is returned for a checkpoint that a key signed which has handed
// the ledger over.
var ErrRetiredKey = errors.New("signed by a retired key")

// errUnsigned is in the errors of what a key has signed that handed the ledger over,
// and the next one not. That proves no misuse: while both sign, anyone can take one
// signature off.
var errUnsigned = errors.New("the key to which the ledger was handed over has not signed it: fetch it from another peer")

// blame says whose doing it is that what the newest key signs contradicts what was
// verified: not the publisher's, if that key has handed the ledger over, and the one
// that follows has not signed. The others are asked before the publisher is convicted.
func (f *Follower) blame(ctx context.Context, t *trust, c ledger.Checkpoint, err error) error {
	newest := t.key()
	if len(f.heard.outside(t)) == 0 {
		if aerr := f.askOthers(ctx, &unaskedError{keys: []string{newest}, previous: []string{newest}}, growTimeout); aerr != nil {
			return errors.Join(err, aerr)
		}
	}
	handOvers := f.heard.outside(t)
	if len(handOvers) == 0 {
		return err
	}
	if len(handOvers) > 1 {
		return errors.Join(&twoSuccessorsError{handOvers}, err)
	}
	next := successorOf(handOvers[0])
	if v, kerr := ledger.NewVerifier(next); kerr == nil {
		if _, kerr = ledger.VerifyCheckpoint(v, c.Signed); kerr == nil {
			return err
		}
	}
	return fmt.Errorf("%w: %s has handed the ledger over to %s, so that it is not the publisher's doing: %w", ErrRetiredKey, newest, next, err)
}

// byRetired looks at what no key signed that counts. A peer may be behind, and
// have what a retired key signed while it counted. Whatever else such a key signs,
// or names as the next one, its holder is not the publisher.
func (f *Follower) byRetired(ctx context.Context, was *position, offer *offered, cause error) (ledger.Checkpoint, error) {
	e := ledger.Evidence{Kind: ledger.EvidenceBadSignature, Peer: offer.who, Received: string(offer.signed)}
	retired := was.trust.retired()
	if retired == nil {
		return ledger.Checkpoint{}, f.refuse(e, cause)
	}
	c, err := ledger.VerifyCheckpoint(retired, offer.signed)
	head, _ := was.at()
	if err == nil && c.Tree.N <= head.Tree.N {
		root, err := f.rootAt(ctx, head.Tree, c.Tree.N)
		if err != nil || root == c.Tree.Hash {
			return ledger.Checkpoint{}, err
		}
	}
	if err == nil {
		key := c.Signers[0]
		if c.Tree.N > head.Tree.N {
			key = f.signsNoMore(c.Signers)
		}
		if key != "" {
			e.Kind, e.Key = ledger.EvidenceRetiredKey, key
			return ledger.Checkpoint{}, f.refuse(e, fmt.Errorf("%w: %s, which has handed the ledger over: fetch it from another peer", ErrRetiredKey, key))
		}
		cause = fmt.Errorf("%w: %w", errUnsigned, cause)
	}
	for _, r := range offer.told {
		known := slices.Contains(was.trust.entries, r.Entry)
		if b, err := ledger.VerifyInclusion(retired, []byte(r.Entry), []byte(r.Proof)); err == nil && !known {
			e.Kind, e.Key, e.Rotations = ledger.EvidenceRetiredKey, b.Checkpoint.Signers[0], []ledger.Rotation{r}
			return ledger.Checkpoint{}, f.refuse(e, fmt.Errorf("%w: it names the key %s as the next one, after it has handed the ledger over", ErrRetiredKey, successorOf(r)))
		}
	}
	return ledger.Checkpoint{}, f.refuse(e, cause)
}

// signsNoMore is the first of some retired keys that has not signed what was verified
// last beside the key that counts; empty if all have, or nothing was verified.
func (f *Follower) signsNoMore(vkeys []string) string {
	last := f.mustContain()
	for _, vkey := range vkeys {
		v, err := ledger.NewVerifier(vkey)
		if err == nil && last != nil {
			if _, err := ledger.VerifyCheckpoint(v, last.Signed); err != nil {
				return vkey
			}
		}
	}
	return ""
}
