package store

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
)

// Scrub hashes all blobs again and again, whether their files have changed or
// not, until ctx ends. It reads rate bytes per second, and rests between two
// passes.
func (s *Store) Scrub(ctx context.Context, rate int64, rest time.Duration) {
	p := &pace{rate: rate}
	for {
		for _, d := range s.all() {
			s.scrubOne(ctx, d, p)
			if ctx.Err() != nil {
				return
			}
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
	}
}

// all are the digests of all blobs, the most recently used first.
func (s *Store) all() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]digest.Digest, 0, len(s.blobs))
	for place := s.used.Back(); place != nil; place = place.Prev() {
		out = append(out, place.Value.(*entry).digest)
	}
	return out
}

func (s *Store) scrubOne(ctx context.Context, d digest.Digest, p *pace) {
	s.mu.Lock()
	e, ok := s.blobs[d]
	if ok {
		e.readers++
	}
	s.mu.Unlock()
	if !ok {
		return
	}
	defer s.release(e)
	if p.spent(ctx, fileCost) != nil {
		return
	}
	err := s.hash(e, newHasher(), func(n int) error { return p.spent(ctx, n) })
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		s.config.Log.Error("scrubbing a blob", "digest", d, "error", err)
	}
}

// fileCost is what opening a file counts for, bytes.
const fileCost = 16 << 10

// pace makes a scrub slow.
type pace struct {
	rate int64 // bytes per second
	debt time.Duration
}

// spent sleeps off n bytes; short naps are saved up. It has an error when ctx ends.
func (p *pace) spent(ctx context.Context, n int) error {
	p.debt += time.Duration(float64(n) / float64(p.rate) * float64(time.Second))
	if p.debt > 10*time.Millisecond {
		select {
		case <-time.After(p.debt):
		case <-ctx.Done():
		}
		p.debt = 0
	}
	return ctx.Err()
}
