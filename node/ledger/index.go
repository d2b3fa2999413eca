package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// segmentBlocks is how many blocks a segment holds.
const segmentBlocks = 1 << 16

// index finds blocks by image name and by the digests that they name. Full
// segments are on disk; the blocks after them are in memory, and are read from
// the tiles again at the next start. All of it is derived from the blocks.
type index struct {
	folder string
	full   int64 // blocks in a segment

	mu       sync.RWMutex // guards what follows
	segments []*segment   // of all blocks below their ends, in order
	tail     []record     // of the blocks after the segments, by height
	mapped   int          // records of the tail that newest and prev know
	newest   map[indexKey]int32
	prev     []int32 // of each record of the tail: the key's one before; -1: none
	size     int64   // blocks that are indexed
	names    names
	fresh    []string // names that no segment has
}

// openIndex maps the segments that follow on each other from block 0 on.
// What comes after a gap or a corrupt one is dropped and indexed again.
func openIndex(folder string, full int64) (*index, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	x := &index{folder: folder, full: full}
	x.clear()
	files, err := filepath.Glob(filepath.Join(folder, "*"+segmentSuffix))
	if err != nil {
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	slices.Sort(files)
	for _, f := range files {
		s, err := openSegment(f)
		if err == nil && s.from == x.size {
			x.adopt(s)
			continue
		}
		if _, corrupt := errors.AsType[*CorruptError](err); err != nil && !corrupt {
			return nil, errors.Join(err, x.close())
		}
		if err := os.Remove(f); err != nil {
			return nil, errors.Join(fmt.Errorf("dropping a piece of the index: %w", err), x.close())
		}
	}
	return x, nil
}

func (x *index) clear() {
	x.emptyTail()
	x.names = names{tags: map[string][]string{}}
}

func (x *index) emptyTail() {
	x.tail, x.prev, x.mapped, x.fresh = x.tail[:0], x.prev[:0], 0, nil
	x.newest = map[indexKey]int32{}
}

func (x *index) adopt(s *segment) {
	x.segments = append(x.segments, s)
	x.size = s.to
	for _, n := range s.names {
		x.names.add(n)
	}
}

func (x *index) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var errs []error
	for _, s := range x.segments {
		errs = append(errs, s.close())
	}
	x.segments = nil
	return errors.Join(errs...)
}

// reset empties the index.
func (x *index) reset() error {
	if err := x.close(); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.clear()
	x.size = 0
	files, err := filepath.Glob(filepath.Join(x.folder, "*"+segmentSuffix))
	for _, f := range files {
		if rerr := os.Remove(f); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// blocks is the number of blocks that are indexed.
func (x *index) blocks() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.size
}

// belongs checks that the newest segment is of a ledger: of the one whose root
// at any size root tells.
func (x *index) belongs(root func(size int64) (tlog.Hash, error)) (bool, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.segments) == 0 {
		return true, nil
	}
	newest := x.segments[len(x.segments)-1]
	h, err := root(newest.to)
	return h == newest.root, err
}

// add indexes the next block. root gives the ledger's root at a size, which
// is asked for when a segment is full.
func (x *index) add(b indexed, root func(size int64) (tlog.Hash, error)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, k := range b.keys {
		// A single-platform image's manifest is its artifact too.
		if !slices.Contains(b.keys[:i], k) {
			x.tail = append(x.tail, record{k, x.size})
		}
	}
	if b.image != "" && x.names.add(b.image) {
		x.fresh = append(x.fresh, b.image)
	}
	x.size++
	if x.size%x.full != 0 {
		return nil
	}
	return x.flush(root)
}

// flush writes the tail as a segment; the caller holds mu.
func (x *index) flush(root func(size int64) (tlog.Hash, error)) error {
	h, err := root(x.size)
	if err != nil {
		return fmt.Errorf("indexing: %w", err)
	}
	s, err := writeSegment(x.folder, x.size-x.full, x.size, h, sortByKey(x.tail), x.fresh)
	if err != nil {
		return err
	}
	x.segments = append(x.segments, s)
	x.emptyTail()
	return nil
}

// sortByKey sorts records whose heights ascend by key and then height: a radix
// sort, 16 bits at a time, which keeps the order of what it holds equal.
func sortByKey(in []record) []record {
	from, to := slices.Clone(in), make([]record, len(in))
	counts := make([]int32, 1<<16+1)
	for shift := 0; shift < 64; shift += 16 {
		clear(counts)
		for _, r := range from {
			counts[int(uint16(r.key>>shift))+1]++
		}
		for i := 1; i < len(counts); i++ {
			counts[i] += counts[i-1]
		}
		for _, r := range from {
			digit := uint16(r.key >> shift)
			to[counts[digit]] = r
			counts[digit]++
		}
		from, to = to, from
	}
	return from
}

// mapTail makes the tail's records findable. It is put off until somebody
// asks: a follower that copies a long ledger fills many tails before that.
func (x *index) mapTail() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for ; x.mapped < len(x.tail); x.mapped++ {
		k := x.tail[x.mapped].key
		before, ok := x.newest[k]
		if !ok {
			before = -1
		}
		x.prev = append(x.prev, before)
		x.newest[k] = int32(x.mapped)
	}
}

// heights yields the blocks below a height that have a key, the newest first,
// until yield returns false.
func (x *index) heights(key indexKey, below int64, yield func(int64) bool) {
	x.mu.RLock()
	if x.mapped < len(x.tail) {
		x.mu.RUnlock()
		x.mapTail()
		x.mu.RLock()
	}
	defer x.mu.RUnlock()
	i, ok := x.newest[key]
	for ; ok && i >= 0; i = x.prev[i] {
		if h := x.tail[i].height; h < below && !yield(h) {
			return
		}
	}
	for _, s := range slices.Backward(x.segments) {
		if s.from < below && !s.heights(key, below, yield) {
			return
		}
	}
}
