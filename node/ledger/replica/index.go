package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// segmentBlocks is how many blocks a segment holds.
const segmentBlocks = 1 << 16

// index finds blocks by image name and by the digests that they name, and
// knows each block's leaf hash and where in its bundle the entry is. Full
// segments are on disk; the blocks after them are in memory, and are read from
// the tiles again at the next start. All of it is derived from the blocks.
// One goroutine at a time changes it; any number asks.
type index struct {
	folder string
	full   int // blocks in a segment

	mu       sync.RWMutex // guards what follows
	segments []*segment   // segments[i] begins at block i*full
	tail     *tail        // of the blocks after the segments
}

// rootFunc gives the root of a ledger's first blocks.
type rootFunc func(size int64) (tlog.Hash, error)

// openIndex opens the segments that follow on each other from block 0 on.
// What comes after a gap or a corrupt one is dropped and indexed again.
func openIndex(folder string, full int) (*index, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	x := &index{folder: folder, full: full, tail: newTail(0)}
	files, err := filepath.Glob(filepath.Join(folder, "*"+segmentSuffix))
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	slices.Sort(files)
	for _, f := range files {
		s, err := readSegment(f)
		if err == nil && s.from == x.tail.from && s.blocks() == full {
			x.segments = append(x.segments, s)
			x.tail = newTail(s.to)
			continue
		}
		if err == nil {
			err = errors.Join(s.close(), &CorruptError{Path: f})
		}
		if _, corrupt := errors.AsType[*CorruptError](err); !corrupt {
			return nil, errors.Join(err, x.close())
		}
		if err := os.Remove(f); err != nil {
			return nil, errors.Join(fmt.Errorf("dropping a piece of the index: %w", err), x.close())
		}
	}
	return x, nil
}

func (x *index) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var errs []error
	for _, s := range x.segments {
		errs = append(errs, s.close())
	}
	x.segments, x.tail = nil, newTail(0)
	return errors.Join(errs...)
}

// blocks is the number of blocks that are indexed.
func (x *index) blocks() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tail.end()
}

// keep drops what is not of the ledger that has size blocks and whose roots
// root gives, and what is above its first head blocks in no segment. Those are
// always kept: they are being asked for.
func (x *index) keep(size, head int64, root rootFunc) error {
	kept := slices.Clone(x.segments) // only this goroutine changes it
	tail := x.tail.cut(head)
	var dropped []*segment
	for len(kept) > 0 {
		newest := kept[len(kept)-1]
		ours, err := newest.isOf(size, root)
		if err != nil {
			return fmt.Errorf("checking the index: %w", err)
		}
		if ours {
			break
		}
		if tail, err = newest.asTail(head); err != nil {
			return fmt.Errorf("dropping a piece of the index: %w", err)
		}
		kept, dropped = kept[:len(kept)-1], append(dropped, newest)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.segments, x.tail = kept, tail
	for _, s := range dropped {
		if err := errors.Join(s.close(), os.Remove(s.file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("dropping a piece of the index: %w", err)
		}
	}
	return nil
}

// isOf tells whether a segment is of the ledger of size blocks with these roots.
func (s *segment) isOf(size int64, root rootFunc) (bool, error) {
	if s.to > size {
		return false, nil
	}
	h, err := root(s.to)
	return h == s.root, err
}

// add indexes the next blocks, of one bundle. root is asked when a segment is
// full.
func (x *index) add(b *batch, root rootFunc) error {
	x.mu.Lock()
	x.tail.add(b)
	full := x.tail.blocks() == x.full
	x.mu.Unlock()
	if !full {
		return nil
	}
	h, err := root(x.tail.end())
	if err != nil {
		return fmt.Errorf("indexing: %w", err)
	}
	s, err := writeSegment(x.folder, x.tail, h)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.segments = append(x.segments, s)
	x.tail = x.tail.next()
	return nil
}

// replace puts a segment that was made again in the place of a damaged one.
func (x *index) replace(damaged *segment, again *tail) error {
	if err := os.Remove(damaged.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing a piece of the index: %w", err)
	}
	s, err := writeSegment(x.folder, again, damaged.root)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.segments[int(s.from)/x.full] = s
	return damaged.close()
}

// uses tells whether a segment is in use.
func (x *index) uses(s *segment) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Contains(x.segments, s)
}

// searchable locks the index for reading, with all of the tail findable. The
// caller calls the result at its end.
func (x *index) searchable() (unlock func()) {
	x.mu.RLock()
	if !x.tail.searchable() {
		x.mu.RUnlock()
		x.mu.Lock()
		x.tail.search()
		x.mu.Unlock()
		x.mu.RLock() // what was added in between is above the caller's head
	}
	return x.mu.RUnlock
}

// heights yields the blocks below a height that have a key, the newest first,
// until yield returns false.
func (x *index) heights(key indexKey, below int64, yield func(int64) bool) error {
	defer x.searchable()()
	if !x.tail.heights(key, below, yield) {
		return nil
	}
	for _, s := range slices.Backward(x.segments) {
		if s.from >= below {
			continue
		}
		if more, err := s.heights(key, below, yield); err != nil || !more {
			return err
		}
	}
	return nil
}

// leaves gives the leaf hashes of n blocks of one bundle from a height on, if
// all are indexed.
func (x *index) leaves(height int64, n int) ([]byte, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]byte, 0, n*tlog.HashSize)
	if height+int64(n) > x.tail.end() {
		return nil, fmt.Errorf("block %d is not indexed: %w", height, ledger.ErrNotFound)
	}
	if height >= x.tail.from {
		return x.tail.leafHashes(out, height, n), nil
	}
	return x.segments[int(height)/x.full].leaves(out, height, n)
}

// offset is where in its bundle a block's entry is.
func (x *index) offset(height int64) (uint32, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if height >= x.tail.end() {
		return 0, fmt.Errorf("block %d is not indexed: %w", height, ledger.ErrNotFound)
	}
	if height >= x.tail.from {
		return x.tail.offsets[height-x.tail.from], nil
	}
	return x.segments[int(height)/x.full].offset(height)
}
