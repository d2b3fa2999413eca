package index

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// tail is the index of the blocks that no segment has yet.
type tail struct {
	Batch
	from int64

	// What makes it searchable is made when somebody asks: a follower that
	// copies a long ledger fills many tails before that.
	mapped int // records that newest and prev know
	newest map[Key]int32
	prev   []int32 // of each record: the key's one before; -1: none
	named  int     // bytes of names that images knows
	images names
}

func newTail(from int64) *tail {
	return &tail{from: from, newest: map[Key]int32{}, images: names{}}
}

// next is the empty tail after a full one, whose space it takes.
func (t *tail) next() *tail {
	n := newTail(t.end())
	n.Batch = Batch{leaves: t.leaves[:0], offsets: t.offsets[:0], records: t.records[:0], names: t.names[:0]}
	n.prev = t.prev[:0]
	return n
}

func (t *tail) end() int64 { return t.from + int64(t.blocks()) }

func (t *tail) add(b *Batch) {
	above := record(t.blocks())
	for _, r := range b.records {
		t.records = append(t.records, r+above)
	}
	t.leaves = append(t.leaves, b.leaves...)
	t.offsets = append(t.offsets, b.offsets...)
	t.names = append(t.names, b.names...)
}

// cut is the tail of the blocks below a height. Names are not cut: that of a
// block which is not asked for is one more in a list.
func (t *tail) cut(height int64) *tail {
	n := int(min(max(height-t.from, 0), int64(t.blocks())))
	out := newTail(t.from)
	out.leaves, out.offsets, out.names = slices.Clone(t.leaves[:n*tlog.HashSize]), slices.Clone(t.offsets[:n]), t.names
	for _, r := range t.records {
		if int(uint16(r)) < n {
			out.records = append(out.records, r)
		}
	}
	return out
}

// asTail makes a tail of a segment's blocks below a height.
func (s *segment) asTail(height int64) (*tail, error) {
	if height <= s.from {
		return newTail(s.from), nil
	}
	t := newTail(s.from)
	var err error
	if t.leaves, err = s.leaves(nil, s.from, s.blocks()); err != nil {
		return nil, err
	}
	err = s.read(s.offsetsAt(), s.blocks()*offsetSize, func(b []byte) {
		for o := range slices.Chunk(b, offsetSize) {
			t.offsets = append(t.offsets, binary.BigEndian.Uint32(o))
		}
	})
	err = errors.Join(err, s.read(s.recordsAt(), s.records*recordSize, func(b []byte) {
		for r := range slices.Chunk(b, recordSize) {
			t.records = append(t.records, record(binary.BigEndian.Uint64(r)))
		}
	}))
	// By height: that is their order in a tail.
	slices.SortStableFunc(t.records, func(a, b record) int { return cmp.Compare(uint16(a), uint16(b)) })
	for _, l := range s.images {
		tags, terr := s.tags(l.repository)
		err = errors.Join(err, terr)
		for _, tag := range tags {
			t.names = append(append(append(append(t.names, l.repository...), ':'), tag...), '\n')
		}
	}
	return t.cut(height), err
}

func (t *tail) searchable() bool { return t.mapped == len(t.records) && t.named == len(t.names) }

// search makes findable what was added.
func (t *tail) search() {
	for ; t.mapped < len(t.records); t.mapped++ {
		k := t.records[t.mapped].key()
		before, ok := t.newest[k]
		if !ok {
			before = -1
		}
		t.prev = append(t.prev, before)
		t.newest[k] = int32(t.mapped)
	}
	t.images.add(t.names[t.named:])
	t.named = len(t.names)
}

// heights yields the blocks below a height that have a key, the newest first.
// It tells whether yield wants more.
func (t *tail) heights(key Key, below int64, yield func(int64) bool) (more bool) {
	i, ok := t.newest[key]
	for ; ok && i >= 0; i = t.prev[i] {
		if h := t.from + int64(uint16(t.records[i])); h < below && !yield(h) {
			return false
		}
	}
	return true
}

// leafHashes appends the leaf hashes of n blocks from a height on.
func (t *tail) leafHashes(to []byte, height int64, n int) []byte {
	at := int(height-t.from) * tlog.HashSize
	return append(to, t.leaves[at:at+n*tlog.HashSize]...)
}
