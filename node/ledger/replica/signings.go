package replica

import (
	"context"
	"sync"
)

// signings tells callers that wait for a checkpoint that it was signed, or why
// not.
type signings struct {
	mu      sync.Mutex    // guards what follows
	blocks  int64         // of the largest tree that was signed; -1 before the first one
	err     error         // why the newest checkpoint was not signed; nil if it was
	changed chan struct{} // closed when any of this changes
}

func newSignings() *signings { return &signings{blocks: -1, changed: make(chan struct{})} }

// note takes what came of one checkpoint.
func (s *signings) note(blocks int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.blocks = max(s.blocks, blocks)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// failure is why the newest checkpoint was not signed; nil if it was.
func (s *signings) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// await returns when a tree of at least so many blocks was signed, or the newest one
// was not.
func (s *signings) await(ctx context.Context, blocks int64) error {
	for {
		s.mu.Lock()
		signed, err, changed := s.blocks, s.err, s.changed
		s.mu.Unlock()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || signed >= blocks {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
