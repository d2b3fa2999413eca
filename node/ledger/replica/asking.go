package replica

import (
	"context"
	"sync"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

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
