package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrTwoSuccessors is returned when a key has handed the ledger over to two keys,
// in ledgers of which neither is verified: which one is the publisher's, a person
// must say.
var ErrTwoSuccessors = errors.New("the ledger's key names two keys that follow it")

// errHandOver is in the errors of a checkpoint that does not follow by the keys,
// whatever its source sends.
var errHandOver = errors.New("the ledger is not handed over to its signer")

// askTimeout bounds how long the other sources are asked for key rotations.
const askTimeout = 5 * time.Second

// successors are the keys to which the ledger's keys have handed it over, as far
// as was heard, and which of them may be followed.
type successors struct {
	mu    sync.Mutex            // guards what follows
	heard map[string][]Rotation // by the key that hands over: at most two, of different keys
	asked map[string]bool       // keys of which the other sources were asked
}

// load takes what was heard before the last restart.
func (s *successors) load(l *Ledger) error {
	s.heard, s.asked = map[string][]Rotation{}, map[string]bool{}
	evidence, err := l.Evidence()
	if err != nil {
		return err
	}
	for _, e := range evidence {
		if e.Kind == EvidenceTwoSuccessors {
			s.add(e.Rotations...)
		}
	}
	return nil
}

// add notes hand-overs that the key before has signed.
func (s *successors) add(rotations ...Rotation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rotations {
		e, err := ParseRotation([]byte(r.Entry))
		if err != nil {
			continue
		}
		known := s.heard[e.Previous]
		if len(known) < 2 && !slices.ContainsFunc(known, func(k Rotation) bool { return successorOf(k) == e.Key }) {
			s.heard[e.Previous] = append(known, r)
		}
	}
}

func successorOf(r Rotation) string {
	e, err := ParseRotation([]byte(r.Entry))
	if err != nil {
		return ""
	}
	return e.Key
}

// of are the hand-overs of a key that were heard.
func (s *successors) of(vkey string) []Rotation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard[vkey])
}

// twoSuccessorsError has the hand-overs to both.
type twoSuccessorsError struct{ rotations []Rotation }

func (e *twoSuccessorsError) Error() string {
	return fmt.Sprintf("%v: %s and %s: pin the one that is the publisher's", ErrTwoSuccessors, successorOf(e.rotations[0]), successorOf(e.rotations[1]))
}

func (e *twoSuccessorsError) Unwrap() []error { return []error{ErrTwoSuccessors, errHandOver} }

// unaskedError names hand-overs of which the other sources were not asked yet.
type unaskedError struct{ rotations []Rotation }

func (e *unaskedError) Error() string {
	return "the other sources were not asked yet about the key " + successorOf(e.rotations[0])
}

func (e *unaskedError) Unwrap() error { return errHandOver }

// mayFollow tells whether hand-overs may be adopted: each is the only one of its
// key that was heard of, and the others were asked.
func (s *successors) mayFollow(rotations []Rotation) error {
	s.add(rotations...)
	for _, r := range rotations {
		e, err := ParseRotation([]byte(r.Entry))
		if err != nil {
			return err
		}
		if both := s.of(e.Previous); len(both) > 1 {
			return &twoSuccessorsError{both}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var unasked []Rotation
	for _, r := range rotations {
		if !s.asked[successorOf(r)] {
			unasked = append(unasked, r)
		}
	}
	if len(unasked) > 0 {
		return &unaskedError{unasked}
	}
	return nil
}

// askOthers asks the other sources whether they know of other keys to which the
// same keys have handed the ledger over.
func (f *Follower) askOthers(ctx context.Context, rotations []Rotation) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var group sync.WaitGroup
	if f.Others != nil {
		for _, source := range f.Others() {
			r, ok := source.(rotationReader)
			if !ok {
				continue
			}
			group.Go(func() {
				told, err := r.ReadRotations(ctx)
				if err != nil {
					return // who does not answer, says nothing
				}
				for _, known := range rotations {
					if e, err := ParseRotation([]byte(known.Entry)); err == nil {
						f.heard.add(signedBy(e.Previous, told)...)
					}
				}
			})
		}
	}
	group.Wait()
	f.heard.mu.Lock()
	defer f.heard.mu.Unlock()
	for _, r := range rotations {
		f.heard.asked[successorOf(r)] = true
	}
}

// signedBy are those hand-overs that the key signed which they say hands over.
func signedBy(vkey string, told []Rotation) (out []Rotation) {
	v, err := NewVerifier(vkey)
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

// verifyNext verifies the signature of a checkpoint that may follow on a
// position: by the newest key, or by one to which that one leads by what the
// source tells. Nothing of it is kept before the checkpoint is adopted, and its
// tree proves it. A checkpoint without content is what a peer has that is behind.
func (f *Follower) verifyNext(ctx context.Context, was *position, offer *offered) (Checkpoint, error) {
	c, err := VerifyCheckpoint(was.trust.verifier(), offer.signed)
	if err == nil {
		return c, nil
	}
	if r, ok := offer.source.(rotationReader); ok {
		if told, rerr := r.ReadRotations(ctx); rerr == nil {
			offer.told = slices.Concat(offer.told, told)
		}
	}
	f.heard.add(signedBy(was.trust.newest.vkey, offer.told)...)
	if both := f.heard.of(was.trust.newest.vkey); len(both) > 1 {
		err := &twoSuccessorsError{both}
		return c, f.refuse(Evidence{Kind: EvidenceTwoSuccessors, Peer: offer.who, Received: string(offer.signed), Rotations: both}, err)
	}
	if c, err := VerifyCheckpoint(was.trust.verifier().WithAll(offer.told), offer.signed); err == nil {
		return c, nil
	}
	return f.byRetired(ctx, was, offer, err)
}

// byRetired looks at what no key signed that counts. A peer may be behind, and
// have what a retired key signed while it counted. Whatever else such a key signs,
// or names as the next one, its holder is not the publisher.
func (f *Follower) byRetired(ctx context.Context, was *position, offer *offered, cause error) (Checkpoint, error) {
	e := Evidence{Kind: EvidenceBadSignature, Peer: offer.who, Received: string(offer.signed)}
	retired := was.trust.retired()
	if retired == nil {
		return Checkpoint{}, f.refuse(e, cause)
	}
	c, err := VerifyCheckpoint(retired, offer.signed)
	head, _ := was.at()
	if err == nil && c.Tree.N <= head.Tree.N {
		root, err := f.rootAt(ctx, head.Tree, c.Tree.N)
		if err != nil || root == c.Tree.Hash {
			return Checkpoint{}, err
		}
	}
	if err == nil {
		e.Kind, e.Key = EvidenceRetiredKey, c.signers[0]
		return Checkpoint{}, f.refuse(e, fmt.Errorf("%w: %s, which has handed the ledger over: fetch it from another peer", ErrRetiredKey, c.signers[0]))
	}
	for _, r := range offer.told {
		known := slices.Contains(was.trust.entries, r.Entry)
		if b, err := proveBlock(retired, []byte(r.Entry), []byte(r.Proof)); err == nil && !known {
			e.Kind, e.Key, e.Rotations = EvidenceRetiredKey, b.Checkpoint.signers[0], []Rotation{r}
			return Checkpoint{}, f.refuse(e, fmt.Errorf("%w: it names the key %s as the next one, after it has handed the ledger over", ErrRetiredKey, successorOf(r)))
		}
	}
	return Checkpoint{}, f.refuse(e, cause)
}

// tellNewKeys keeps an alarm for each key to which the ledger is handed over.
func (f *Follower) tellNewKeys(next *trust, c Checkpoint, who string) error {
	for _, b := range next.handedOver {
		if b.Key == f.vkey {
			continue // a person pinned it
		}
		// Crash after: the alarm is raised, and the next sync adopts the key.
		err := f.keepEvidence(Evidence{
			Kind: EvidenceNewKey, Peer: who, Key: b.Key, Received: string(c.Signed), Rotations: []Rotation{{Entry: string(b.data)}},
			Message: fmt.Sprintf("the ledger was handed over in block %d to the key %s, by %s: ask the publisher whether that key is its own, and then 'pyrsia evidence acknowledge'", b.height, b.Key, b.Previous),
		})
		if err != nil {
			return fmt.Errorf("%w: %w", errStorage, err)
		}
		f.log.Error("ALARM: the ledger was handed over to another key: ask the publisher, see 'pyrsia evidence'", "block", b.height, "from", b.Previous, "to", b.Key)
	}
	return nil
}
