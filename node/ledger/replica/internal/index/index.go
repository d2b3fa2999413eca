// Package index finds the blocks of a ledger by image name and by digest, and keeps
// their leaf hashes. It may import ledger's formats and durable; replica alone calls
// it, and gives it the bundles of blocks that it has verified.
//
// It is not a database because its keys are uniformly random and all of it can be
// derived from the blocks again: no append has to write it, what is damaged is made
// again, and files that are written once, in order, are small and quick.
// docs/decisions/ledger-index.md has the whole reason.
//
// Against bbolt, of the same million blocks (make bench BENCH=index-bbolt, beside other
// work): 0.09 of the time to index them (6.5 s, with reading and proving the blocks, to
// 74 s of the database alone), 0.12 of the bytes on disk (96 a block to 825), 0.44 of
// the time of a look-up with cold caches (304 us to 690), 0.31 with warm ones (20 us
// to 65), 31 MB of memory in all.
package index

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

// SegmentBlocks is how many blocks a segment of a ledger holds.
const SegmentBlocks = 1 << 16

// Index finds blocks by image name and by the digests that they name, and
// knows each block's leaf hash and where in its bundle the entry is. Full
// segments are on disk; the blocks after them are in memory, and are read from
// the tiles again at the next start. One goroutine at a time changes it; any
// number asks.
type Index struct {
	folder string
	full   int // blocks in a segment

	mu       sync.RWMutex // guards what follows
	segments []*segment   // segments[i] begins at block i*full
	tail     *tail        // of the blocks after the segments
}

// RootFunc returns the root of a ledger's first size blocks.
type RootFunc func(size int64) (tlog.Hash, error)

// Files lists the files of the index in a folder, in the order of their blocks.
func Files(folder string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*"+segmentSuffix))
	slices.Sort(files)
	return files, err
}

// Open opens the index in a folder, of segments of full blocks each: those that
// follow on each other from block 0 on. What comes after a gap or a corrupt one
// is removed; the caller adds those blocks again.
func Open(folder string, full int) (*Index, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	x := &Index{folder: folder, full: full, tail: newTail(0)}
	files, err := Files(folder)
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	for _, f := range files {
		s, err := readSegment(f)
		if err == nil && s.from == x.tail.from && s.blocks() == full {
			x.segments = append(x.segments, s)
			x.tail = newTail(s.to)
			continue
		}
		if err == nil {
			err = errors.Join(s.close(), &corruptError{f})
		}
		if _, corrupt := errors.AsType[*corruptError](err); !corrupt {
			return nil, errors.Join(err, x.Close())
		}
		if err := os.Remove(f); err != nil {
			return nil, errors.Join(fmt.Errorf("dropping a piece of the index: %w", err), x.Close())
		}
	}
	return x, nil
}

// Close gives the files back.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var errs []error
	for _, s := range x.segments {
		errs = append(errs, s.close())
	}
	x.segments, x.tail = nil, newTail(0)
	return errors.Join(errs...)
}

// Blocks is the number of blocks that are indexed.
func (x *Index) Blocks() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tail.end()
}

// Keep drops what is not of the ledger that has size blocks and whose roots
// root returns, and what is above its first head blocks in no segment. Those are
// always kept: they are being asked for.
func (x *Index) Keep(size, head int64, root RootFunc) error {
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
func (s *segment) isOf(size int64, root RootFunc) (bool, error) {
	if s.to > size {
		return false, nil
	}
	h, err := root(s.to)
	return h == s.root, err
}

// Add indexes the next blocks, and takes the batch back. root is asked when a
// segment is full.
func (x *Index) Add(b *Batch, root RootFunc) error {
	x.mu.Lock()
	x.tail.add(b)
	batches.Put(b)
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

// Remake makes a damaged part again and puts it in the place of the damaged one.
// read returns the blocks of one bundle from a height on.
func (x *Index) Remake(d *DamagedError, read func(height int64) (*Batch, error)) error {
	damaged := d.segment
	if !x.uses(damaged) {
		return nil // a concurrent call was faster
	}
	again := newTail(damaged.from)
	for again.end() < damaged.to {
		b, err := read(again.end())
		if err != nil {
			return fmt.Errorf("making %s again: %w", damaged.file, err)
		}
		again.add(b)
		batches.Put(b)
	}
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
func (x *Index) uses(s *segment) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Contains(x.segments, s)
}

// searchable locks the index for reading, with all of the tail findable. The
// caller calls the result at its end.
func (x *Index) searchable() (unlock func()) {
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

// Heights yields the blocks below a height that have a key, the newest first,
// until yield returns false. A *DamagedError says that Remake must run first.
func (x *Index) Heights(key Key, below int64, yield func(int64) bool) error {
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

// Leaves returns the leaf hashes of n blocks of one bundle from a height on, or a
// ledger.ErrNotFound if not all of them are indexed.
func (x *Index) Leaves(height int64, n int) ([]byte, error) {
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

// Offset is where in its bundle a block's entry is.
func (x *Index) Offset(height int64) (uint32, error) {
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
