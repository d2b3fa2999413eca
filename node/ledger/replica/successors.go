package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ErrTwoSuccessors is returned when a key has handed the ledger over to two keys,
// in ledgers of which neither is verified: which one is the publisher's, a person
// must say.
var ErrTwoSuccessors = errors.New("the ledger's key names two keys that follow it")

// errHandOver is in the errors of a checkpoint that does not follow by the keys,
// whatever its source sends.
var errHandOver = errors.New("the ledger is not handed over to its signer")

// maxHeard bounds the remembered hand-overs by keys that are not followed yet:
// the holder of one key can make any number of successors.
const maxHeard = 256

// successors are the keys to which the ledger's keys have handed it over, as far
// as was heard.
type successors struct {
	mu    sync.Mutex                   // guards what follows
	heard map[string][]ledger.Rotation // by the key that hands over: at most two, of different keys
	asked map[string]bool              // keys of which the other sources were asked
}

func newSuccessors() *successors {
	return &successors{heard: map[string][]ledger.Rotation{}, asked: map[string]bool{}}
}

// load takes what was heard before the last restart.
func (s *successors) load(l *Ledger) error {
	newest := l.now().trust.key()
	evidence, err := l.Evidence()
	if err != nil {
		return err
	}
	for _, e := range evidence {
		if e.Kind == ledger.EvidenceTwoSuccessors {
			s.add(newest, e.Rotations...)
		}
	}
	if l.record != nil {
		s.add(newest, l.record.HandOvers...)
	}
	return nil
}

// add notes hand-overs that the key before has signed, and tells whether any is
// new. Those of the newest key, and of a key that is known, always find room.
func (s *successors) add(newest string, rotations ...ledger.Rotation) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rotations {
		e, err := ledger.ParseRotation([]byte(r.Entry))
		if err != nil {
			continue
		}
		known := s.heard[e.Previous]
		full := len(known) > 1 || len(known) == 0 && len(s.heard) >= maxHeard && e.Previous != newest
		if !full && !slices.ContainsFunc(known, func(k ledger.Rotation) bool { return successorOf(k) == e.Key }) {
			s.heard[e.Previous] = append(known, r)
			news = true
		}
	}
	return news
}

func successorOf(r ledger.Rotation) string {
	e, err := ledger.ParseRotation([]byte(r.Entry))
	if err != nil {
		return ""
	}
	return e.Key
}

// of are the hand-overs of a key that were heard.
func (s *successors) of(vkey string) []ledger.Rotation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard[vkey])
}

// twoSuccessorsError has the hand-overs to both.
type twoSuccessorsError struct{ rotations []ledger.Rotation }

func (e *twoSuccessorsError) Error() string {
	return fmt.Sprintf("%v: %s and %s: pin the one that is the publisher's", ErrTwoSuccessors, successorOf(e.rotations[0]), successorOf(e.rotations[1]))
}

func (e *twoSuccessorsError) Unwrap() []error { return []error{ErrTwoSuccessors, errHandOver} }

// errBefore is in the errors of a ledger that ends before it is handed over: its
// source is behind.
var errBefore = errors.New("the ledger was handed over since: another peer has more of it")

// maySign alone decides which key may sign next: whether a tree may be adopted whose
// trust is next. Each key that leads to its newest has named only one other, as far
// as was heard; the newest has named none, because a key that has handed the ledger
// over no longer counts, whether the tree holds that block or not; and the others
// were asked since the start. Blocks that this copy has verified before were judged
// then.
func (f *Follower) maySign(next *trust, c ledger.Checkpoint) error {
	was, verified := f.now().trust, int64(0)
	if before := f.before.Load(); before != nil {
		verified = before.Tree.N // c extends it
	}
	ask := new(unaskedError)
	for i, r := range next.newRotations() {
		b := next.handedOver[i]
		if b.height < verified {
			continue
		}
		if err := f.hear(r); err != nil {
			return err
		}
		for _, other := range f.heard.notIn(was, b.Previous) {
			if successorOf(other) != b.Key {
				return &twoSuccessorsError{[]ledger.Rotation{r, other}}
			}
		}
		if !f.heard.wasAsked(b.Key) {
			ask.keys, ask.previous = append(ask.keys, b.Key), append(ask.previous, b.Previous)
		}
	}
	newest := next.key()
	if err := retiredBy(f.heard.outside(next), newest, c); err != nil {
		return err
	}
	if len(ask.keys) > 0 {
		ask.previous = append(ask.previous, newest)
		return ask
	}
	return nil
}

// retiredBy says why a tree without hand-overs by its newest key does not count.
func retiredBy(handOvers []ledger.Rotation, newest string, c ledger.Checkpoint) error {
	if len(handOvers) == 0 {
		return nil
	}
	if !slices.ContainsFunc(handOvers, func(r ledger.Rotation) bool { return heightOf(r) < c.Tree.N }) {
		return fmt.Errorf("%w: %w", errHandOver, errBefore)
	}
	if len(handOvers) > 1 {
		return &twoSuccessorsError{handOvers}
	}
	return fmt.Errorf("%w: %w: %s has handed the ledger over to %s, in a block that is not in its ledger of %d blocks", errHandOver, ErrRetiredKey, newest, successorOf(handOvers[0]), c.Tree.N)
}

// heightOf is the height of the block of a hand-over that was verified.
func heightOf(r ledger.Rotation) int64 {
	height, err := ledger.ProofHeight(r.Proof)
	if err != nil {
		return -1
	}
	return height
}

// outside are the hand-overs by the newest key that are not in its own tree. Those
// that are have been judged with it.
func (s *successors) outside(t *trust) []ledger.Rotation { return s.notIn(t, t.key()) }

// notIn are the hand-overs by a key that are not in a tree.
func (s *successors) notIn(t *trust, vkey string) []ledger.Rotation {
	return slices.DeleteFunc(s.of(vkey), func(r ledger.Rotation) bool { return slices.Contains(t.entries, r.Entry) })
}

// hear notes hand-overs that the key before has signed, and keeps those by the
// newest key.
func (f *Follower) hear(rotations ...ledger.Rotation) error {
	newest := f.now().trust.key()
	if !f.heard.add(newest, rotations...) {
		return nil
	}
	f.recording.Lock()
	replaced := f.record != nil && len(f.record.Keys) > 0 && !f.record.leadsFrom(f.vkey)
	f.recording.Unlock()
	if replaced {
		return nil // it says which keys led to what is on this disk, until that is judged
	}
	return f.keepKeys(newest, f.heard.of(newest))
}

// verifyNext verifies the signature of a checkpoint that may follow on a
// position: by the newest key, or by one to which that one leads by what the
// source tells. Nothing of it is kept before the checkpoint is adopted, and its
// tree proves it. A checkpoint without content is what a peer has that is behind.
func (f *Follower) verifyNext(ctx context.Context, was *position, offer *offered) (ledger.Checkpoint, error) {
	if h := was.head; h != nil && bytes.Equal(offer.signed, h.Signed) && slices.Contains(h.Signers, was.trust.key()) {
		return *h, nil // most answers of a ledger that does not grow
	}
	c, err := ledger.VerifyCheckpoint(was.trust.newest, offer.signed)
	if err == nil && was.head != nil && (c.Tree.N <= was.head.Tree.N || len(was.trust.unproven()) == 0) {
		return c, nil
	}
	// Proofs are also read for mirrors with an earlier key: a reader of this copy
	// must get all hand-overs.
	if r, ok := offer.source.(rotationReader); ok {
		if told, rerr := r.ReadRotations(ctx); rerr == nil {
			offer.told = slices.Concat(offer.told, told)
		}
	}
	if err == nil {
		return c, nil
	}
	if err := f.hear(signedBy(was.trust.key(), offer.told)...); err != nil {
		return c, err
	}
	// While a tree is there that what comes must extend, that tells which it is.
	if both := f.heard.outside(was.trust); len(both) > 1 && f.before.Load() == nil {
		err := &twoSuccessorsError{both}
		return c, f.refuse(ledger.Evidence{Kind: ledger.EvidenceTwoSuccessors, Peer: offer.who, Received: string(offer.signed), Rotations: both}, err)
	}
	if c, err := ledger.VerifyCheckpoint(was.trust.newest.WithAll(offer.told), offer.signed); err == nil {
		return c, nil
	}
	return f.byRetired(ctx, was, offer, err)
}

// tellNewKeys keeps an alarm for each key to which the ledger is handed over.
func (f *Follower) tellNewKeys(next *trust, c ledger.Checkpoint, who string) error {
	for _, b := range next.handedOver {
		if b.Key == f.vkey {
			continue // a person pinned it
		}
		// Crash after: the alarm is raised, and the next sync adopts the key.
		err := f.keepEvidence(ledger.Evidence{
			Kind: ledger.EvidenceNewKey, Peer: who, Key: b.Key, Received: string(c.Signed), Rotations: []ledger.Rotation{{Entry: string(b.data)}},
			Message: fmt.Sprintf("the ledger was handed over in block %d to the key %s, by %s: ask the publisher whether that key is its own, and then 'pyrsia evidence acknowledge'", b.height, b.Key, b.Previous),
		})
		if err != nil {
			return fmt.Errorf("%w: %w", errStorage, err)
		}
		f.log.Error("the ledger was handed over to another key: ask the publisher, see 'pyrsia evidence'", "alarm", true, "block", b.height, "from", b.Previous, "to", b.Key)
	}
	return nil
}

const (
	// askTimeout bounds how long the other sources are asked about a new key.
	askTimeout = 5 * time.Second
	// growTimeout is the bound before the first growth by the key that counts, which
	// is at each start. A slower source is heard in one of the next rounds.
	growTimeout = time.Second
	// silence is after how long without a signature of the key that counts they are
	// asked again: this node may have been cut off while it was handed over.
	silence = 5 * RefreshInterval
)

// unaskedError names keys of which the other sources were not asked yet, and those
// that may have handed over to others.
type unaskedError struct{ keys, previous []string }

func (e *unaskedError) Error() string {
	return "the other sources were not asked yet about the key " + e.keys[0]
}

func (e *unaskedError) Unwrap() error { return errHandOver }

// mustAsk tells whether the others are to be asked before what the newest key signs is
// taken: before the first growth, and when it has signed nothing for long.
func (f *Follower) mustAsk(was *position, c ledger.Checkpoint) bool {
	head, ok := was.at()
	if !f.heard.wasAsked(was.trust.key()) {
		return c.Tree.N > head.Tree.N
	}
	return ok && follows(c, head, time.Now()) && time.Since(was.since) > silence && len(f.heard.outside(was.trust)) == 0
}

func (s *successors) wasAsked(vkey string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[vkey]
}

// askOthers asks the other sources whether they know of keys to which the same keys
// have handed the ledger over.
func (f *Follower) askOthers(ctx context.Context, unasked *unaskedError, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex // guards told
	var told []ledger.Rotation
	var group sync.WaitGroup
	if f.Others != nil {
		for _, source := range f.Others() {
			r, ok := source.(rotationReader)
			if !ok {
				continue
			}
			group.Go(func() {
				rotations, err := r.ReadRotations(ctx)
				if err != nil {
					return // a source that does not answer says nothing
				}
				for _, vkey := range unasked.previous {
					signed := signedBy(vkey, rotations)
					mu.Lock()
					told = append(told, signed...)
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	if err := f.hear(told...); err != nil {
		return err
	}
	f.heard.mu.Lock()
	defer f.heard.mu.Unlock()
	for _, vkey := range unasked.keys {
		f.heard.asked[vkey] = true
	}
	return nil
}

// signedBy are those hand-overs that the key signed which they say hands over.
func signedBy(vkey string, told []ledger.Rotation) (out []ledger.Rotation) {
	v, err := ledger.NewVerifier(vkey)
	if err != nil {
		return nil
	}
	for _, r := range told {
		if _, err := v.With(r); err == nil {
			out = append(out, r)
		}
	}
	return out
}
