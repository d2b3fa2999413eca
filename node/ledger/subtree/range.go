package subtree

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// maxLeaves bounds a tree: from there on tlog's indexes of hashes overflow.
const maxLeaves = 1 << 61

// Range are the leaves from Start on and before End.
type Range struct{ Start, End int64 }

// String implements fmt.Stringer.
func (r Range) String() string { return fmt.Sprintf("[%d, %d)", r.Start, r.End) }

// Check tells why a range is no subtree: Start has to be a multiple of the
// smallest power of two that is not below the number of leaves (section 4.1).
//
// An empty range is one, as in the draft after version 05. Version 03, which
// tlog-witness cites, knows none: whoever answers by that has to refuse it.
func (r Range) Check() error {
	switch {
	case r.Start < 0 || r.Start > r.End:
		return fmt.Errorf("%v: want a start that is not after the end", r)
	case r.End > maxLeaves:
		return fmt.Errorf("%v: a tree has at most %d leaves", r, int64(maxLeaves))
	case r.Start&(bitCeil(r.End-r.Start)-1) != 0:
		return fmt.Errorf("%v is no subtree: want a start that is a multiple of %d", r, bitCeil(r.End-r.Start))
	}
	return nil
}

// bitCeil is the smallest power of two that is not below n.
func bitCeil(n int64) int64 {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len64(uint64(n-1))
}

// Cover returns two adjacent subtrees that cover a range (section 4.5). Nothing
// follows on its end; of left, less than half may be before its start. For a range
// of at most one leaf right is empty.
func Cover(r Range) (left, right Range, err error) {
	if r.Start < 0 || r.Start > r.End || r.End > maxLeaves {
		return left, right, fmt.Errorf("covering %v: want a range of at most %d leaves", r, int64(maxLeaves))
	}
	if r.End-r.Start <= 1 {
		return r, Range{r.End, r.End}, nil
	}
	last := r.End - 1
	// Where the ways from the root to the first and to the last leaf part.
	below := int64(1)<<(bits.Len64(uint64(r.Start^last))-1) - 1
	mid := last &^ below
	start := r.Start &^ (1<<bits.Len64(uint64(^r.Start&below)) - 1)
	return Range{start, mid}, Range{mid, r.End}, nil
}

// Hash is the hash of a subtree, from the stored hashes of a tree that has it.
func Hash(r Range, hashes tlog.HashReader) (tlog.Hash, error) {
	if err := r.Check(); err != nil {
		return tlog.Hash{}, err
	}
	out, err := read([]Range{r}, hashes)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("hashing %v: %w", r, err)
	}
	return out[0], nil
}

// HashLeaves is the hash of a subtree whose leaves are hashed already. It is the
// same wherever in a tree the leaves are.
func HashLeaves(leaves []tlog.Hash) tlog.Hash {
	switch n := int64(len(leaves)); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	default:
		k := bitCeil(n) / 2
		return tlog.NodeHash(HashLeaves(leaves[:k]), HashLeaves(leaves[k:]))
	}
}

// read returns the hashes of subtrees by one call of the reader, which may have to
// fetch tiles for it.
func read(subtrees []Range, hashes tlog.HashReader) ([]tlog.Hash, error) {
	var indexes []int64
	for _, r := range subtrees {
		indexes = append(indexes, stored(r)...)
	}
	parts, err := hashes.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	if len(parts) != len(indexes) {
		return nil, fmt.Errorf("asked for %d hashes and got %d", len(indexes), len(parts))
	}
	out := make([]tlog.Hash, len(subtrees))
	for i, r := range subtrees {
		n := bits.OnesCount64(uint64(r.End - r.Start))
		out[i] = join(parts[:n])
		parts = parts[n:]
	}
	return out, nil
}

// stored are the indexes of the stored hashes that a subtree's hash is made of, the
// leftmost first: those of its largest complete subtrees.
func stored(r Range) (indexes []int64) {
	for at := r.Start; at < r.End; {
		level := bits.Len64(uint64(r.End-at)) - 1
		indexes = append(indexes, tlog.StoredHashIndex(level, at>>level))
		at += 1 << level
	}
	return indexes
}

// join makes one hash of those of complete subtrees, each smaller than the one
// before.
func join(parts []tlog.Hash) tlog.Hash {
	if len(parts) == 0 {
		return sha256.Sum256(nil)
	}
	h := parts[len(parts)-1]
	for i := len(parts) - 2; i >= 0; i-- {
		h = tlog.NodeHash(parts[i], h)
	}
	return h
}
