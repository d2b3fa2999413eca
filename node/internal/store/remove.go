package store

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

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
