package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// partialAge is how long an abandoned blob is kept.
const partialAge = 24 * time.Hour

// Partial is a blob that arrives piece by piece, in any order, and whose file
// outlives the process. What the file holds is for the caller to verify, also
// after a restart: nothing says which parts of it were written.
type Partial struct {
	*os.File
	store   *Store
	digest  digest.Digest
	release func() // gives the reserved room back, once
}

// unfinished is a partial blob's file that is not open.
type unfinished struct {
	digest digest.Digest
	size   int64
}

func (s *Store) partialDir() string { return filepath.Join(s.root, "partial") }

// Partial begins to write a blob, or goes on where the last one stopped, and
// makes room for it. The caller closes it in any case: without Commit or Drop
// before, it is kept. At most one may be open for a digest.
func (s *Store) Partial(d digest.Digest, size int64) (*Partial, error) {
	p, err := s.partial(d, size)
	if err != nil {
		return nil, fmt.Errorf("storing %s: %w", d, err)
	}
	return p, nil
}

func (s *Store) partial(d digest.Digest, size int64) (*Partial, error) {
	if err := os.MkdirAll(s.partialDir(), 0o755); err != nil {
		return nil, fullOr(err)
	}
	if err := s.reserve(size); err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { s.unreserve(size) })
	s.mu.Lock()
	s.takeUp(d) // the room that it has is reserved now
	s.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.partialDir(), d.Encoded()), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		release()
		s.leave(d)
		return nil, fullOr(err)
	}
	if err = s.allocate(f, 0, size); err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		release()
		s.leave(d)
		return nil, errors.Join(fullOr(err), f.Close())
	}
	return &Partial{File: f, store: s, digest: d, release: release}, nil
}

// WriteAt writes a part.
func (p *Partial) WriteAt(data []byte, offset int64) (int, error) {
	n, err := p.File.WriteAt(data, offset)
	return n, fullOr(err)
}

// Close keeps an incomplete blob for the next attempt, within the store's
// bound.
func (p *Partial) Close() error {
	p.release()
	p.store.leave(p.digest)
	return p.File.Close()
}

// leave keeps the file of an incomplete blob once it is not open any more.
func (s *Store) leave(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arriving[d]--; s.arriving[d] > 0 {
		return
	}
	delete(s.arriving, d)
	if info, err := os.Stat(filepath.Join(s.partialDir(), d.Encoded())); err == nil { // else it is complete, or dropped
		s.unfinished = append(s.unfinished, unfinished{d, info.Size()})
		s.unfinishedSize += info.Size()
	}
	s.shrink(0)
}

// takeUp takes a blob out of those that are not open, if it is there; the
// caller holds mu.
func (s *Store) takeUp(d digest.Digest) {
	s.arriving[d]++
	s.forgetUnfinished(d)
}

func (s *Store) forgetUnfinished(d digest.Digest) {
	s.unfinished = slices.DeleteFunc(s.unfinished, func(u unfinished) bool {
		if u.digest == d {
			s.unfinishedSize -= u.size
		}
		return u.digest == d
	})
}

// giveUp drops the blob that was abandoned first and returns its size, or 0 if
// there is none. The caller holds mu, which giveUp gives up for a while.
func (s *Store) giveUp() int64 {
	if len(s.unfinished) == 0 {
		return 0
	}
	u := s.unfinished[0]
	s.forgetUnfinished(u.digest)
	if err := s.throwAway(filepath.Join(s.partialDir(), u.digest.Encoded())); err != nil {
		s.config.Log.Error("dropping an unfinished blob", "digest", u.digest, "error", err)
	}
	return max(u.size, 1)
}

// Commit puts the blob into the store. The caller has verified that it has
// its digest.
func (p *Partial) Commit() error {
	s := p.store
	defer p.release() // after the unlock
	s.mu.Lock()
	defer s.mu.Unlock()
	// Not synced, for a cache may lose a blob: after a power cut the first read
	// finds that it does not have its digest, and it is fetched again. Crash
	// before the rename: the partial blob is gone on with.
	if err := os.Rename(p.Name(), s.file(p.digest)); err != nil {
		return fmt.Errorf("storing %s: %w", p.digest, err)
	}
	info, err := p.Stat() // after the rename, which changes the ctime
	if err != nil {
		return fmt.Errorf("storing %s: %w", p.digest, err)
	}
	s.add(&entry{digest: p.digest, size: info.Size(), checked: fingerprintOf(info)})
	return nil
}

// Drop removes a blob of which nothing is to be kept.
func (p *Partial) Drop() error { return os.Remove(p.Name()) }

// Cache stores a small blob that the caller has verified, not durably: see
// Partial.Commit.
func (s *Store) Cache(d digest.Digest, data []byte) error {
	p, err := s.Partial(d, int64(len(data)))
	if err != nil {
		return err
	}
	if _, err = p.WriteAt(data, 0); err == nil {
		err = p.Commit()
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("storing %s: %w", d, err), p.Drop())
	}
	return errors.Join(err, p.Close())
}

// Beginning finds the blobs of at most max bytes that begin with prefix, as
// they are on disk: unverified.
func (s *Store) Beginning(prefix []byte, max int64) iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		s.mu.Lock()
		var small []digest.Digest
		for d, e := range s.blobs {
			if e.size >= int64(len(prefix)) && e.size <= max {
				small = append(small, d)
			}
		}
		s.mu.Unlock()
		for _, d := range small {
			if s.begins(d, prefix) && !yield(d) {
				return
			}
		}
	}
}

func (s *Store) begins(d digest.Digest, prefix []byte) bool {
	f, err := os.Open(s.file(d))
	if err != nil {
		return false // evicted since
	}
	defer f.Close()
	start := make([]byte, len(prefix))
	_, err = io.ReadFull(f, start)
	return err == nil && bytes.Equal(start, prefix)
}

// Touch marks a blob as used now.
func (s *Store) Touch(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.blobs[d]; ok {
		s.used.MoveToBack(e.place)
	}
}

// findUnfinished finds the partial blobs, and drops those that were abandoned
// long ago.
func (s *Store) findUnfinished() {
	files, _ := os.ReadDir(s.partialDir()) // none yet, or as unreadable as any other
	ages := map[digest.Digest]time.Time{}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			continue
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
		if isHash(f.Name()) && time.Since(info.ModTime()) < partialAge {
			ages[d] = info.ModTime()
			s.unfinished = append(s.unfinished, unfinished{d, info.Size()})
			s.unfinishedSize += info.Size()
			continue
		}
		if err := os.Remove(filepath.Join(s.partialDir(), f.Name())); err != nil {
			s.config.Log.Warn("removing an unfinished blob", "file", f.Name(), "error", err)
		}
	}
	slices.SortFunc(s.unfinished, func(a, b unfinished) int { return ages[a.digest].Compare(ages[b.digest]) })
}
