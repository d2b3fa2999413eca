package store

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Spare makes a blob that was not opened since it came the next one to be
// evicted.
func (s *Store) Spare(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.blobs[d]; ok && !e.opened {
		s.used.MoveToFront(e.place)
	}
}

// Remove deletes a blob from the disk and from the bucket; readers that have it
// open go on. Crash between the two: it is still in the bucket, and the next
// Remove deletes it.
func (s *Store) Remove(ctx context.Context, d digest.Digest) error {
	if err := s.removeLocal(d); err != nil {
		return fmt.Errorf("removing blob %s: %w", d, err)
	}
	if s.config.Bucket == nil {
		return nil
	}
	return s.config.Bucket.Remove(ctx, d)
}

func (s *Store) removeLocal(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.blobs[d]
	if !ok {
		return nil
	}
	s.forget(e)
	return s.throwAway(s.file(d))
}
