package quorum

import (
	"encoding/binary"
	"fmt"
)

// Histories are modelled: a tree is a chain of blocks with a hash each, which names
// one history as a Merkle root does. The transitions compare sizes and roots and
// never look inside.

// block is an entry with all before it. Block 0 is the tree without entries.
type block struct {
	parent, size int32
	image        int32
	child, next  int32 // its first continuation, and its parent's next one
	hash         uint64
}

type history []block

// grow returns the block for image after parent: equal histories are one block.
func (h *history) grow(parent, image int32) int32 {
	for c := (*h)[parent].child; c != 0; c = (*h)[c].next {
		if (*h)[c].image == image {
			return c
		}
	}
	p := &(*h)[parent]
	c := int32(len(*h))
	b := block{parent: parent, size: p.size + 1, image: image, next: p.child, hash: mix(p.hash ^ mix(uint64(image)+1))}
	p.child = c
	*h = append(*h, b)
	return c
}

func (h history) tree(b int32) Tree {
	if b == 0 {
		return Tree{Root: emptyRoot}
	}
	t := Tree{Size: int64(h[b].size)}
	binary.LittleEndian.PutUint64(t.Root[:], h[b].hash)
	binary.LittleEndian.PutUint32(t.Root[8:], uint32(b))
	return t
}

func (h history) block(t Tree) int32 {
	if t.Size == 0 {
		return 0
	}
	return int32(binary.LittleEndian.Uint32(t.Root[8:]))
}

// at is the beginning of b with that size.
func (h history) at(b, size int32) int32 {
	for h[b].size > size {
		b = h[b].parent
	}
	return b
}

// grew tells whether b continues a.
func (h history) grew(a, b int32) bool { return h.at(b, h[a].size) == a }

// has tells whether image is in b beyond from, which b continues.
func (h history) has(b, from, image int32) bool {
	for ; b != from && b != 0; b = h[b].parent {
		if h[b].image == image {
			return true
		}
	}
	return false
}

// Grew makes a history a Consistency: what a verified proof shows.
func (h history) Grew(old, next Tree) error {
	if a, b := h.block(old), h.block(next); !h.grew(a, b) {
		return fmt.Errorf("blocks %d and %d are of two histories", a, b)
	}
	return nil
}

// entries is a set of blocks of which all entries are on a disk.
type entries []uint64

func (e entries) has(b int32) bool { return b == 0 || int(b)/64 < len(e) && e[b/64]>>(b%64)&1 == 1 }

// store puts the blocks of b from a size on. It is false if entries below are missing.
func (e *entries) store(h history, b, from int32) bool {
	for ; h[b].size > from; b = h[b].parent {
		for int(b)/64 >= len(*e) {
			*e = append(*e, 0)
		}
		(*e)[b/64] |= 1 << (b % 64)
	}
	return e.has(b)
}

// computed is the evidence that a disk gives: roots of trees whose entries it has.
type computed struct {
	h history
	e entries
}

func (c computed) Grew(old, next Tree) error {
	if !c.e.has(c.h.block(next)) {
		return fmt.Errorf("no root was computed at size %d", next.Size)
	}
	return c.h.Grew(old, next)
}

// random is splitmix64: schedules need speed and repeatability, no more.
type random uint64

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (r *random) n(n int) int {
	*r += 0x9e3779b97f4a7c15
	return int((mix(uint64(*r)) >> 32) * uint64(n) >> 32)
}

// in tells whether something that happens in so many of 100 cases does now.
func (r *random) in(percent int) bool { return percent > 0 && r.n(100) < percent }
