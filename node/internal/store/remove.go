package store

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Spare has a blob that nobody has opened since it came be the next to go when
// room is needed.
func (s *Store) Spare(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.blobs[d]; ok && !e.opened {
		s.used.MoveToFront(e.place)
	}
}

// Remove deletes a blob that nobody needs; readers that have it open go on.
func (s *Store) Remove(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.blobs[d]
	if !ok {
		return nil
	}
	s.forget(e)
	if err := s.throwAway(s.file(d)); err != nil {
		return fmt.Errorf("removing blob %s: %w", d, err)
	}
	return nil
}
