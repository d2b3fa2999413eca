package subtree

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxProof bounds the hashes of a proof (c2sp.org/tlog-mirror, c2sp.org/tlog-witness).
const MaxProof = 63

// Proof are the hashes that lead from a leaf or a subtree to what it is in.
type Proof []tlog.Hash

// errProof is what a proof is that leads elsewhere.
var errProof = errors.New("the proof does not lead to the hash that is claimed")

// ProveInclusion proves that a leaf is in a subtree (section 4.3), from the stored
// hashes of a tree that has both.
func ProveInclusion(index int64, in Range, hashes tlog.HashReader) (Proof, error) {
	if err := checkIndex(index, in); err != nil {
		return nil, err
	}
	return prove(Range{index - in.Start, index - in.Start + 1}, in, hashes)
}

func checkIndex(index int64, in Range) error {
	if err := in.Check(); err != nil {
		return err
	}
	if index < in.Start || index >= in.End {
		return fmt.Errorf("leaf %d is not in %v", index, in)
	}
	return nil
}

// CheckInclusion verifies that a leaf, by its hash, is in the subtree with a hash.
func CheckInclusion(p Proof, index int64, leaf tlog.Hash, in Range, hash tlog.Hash) error {
	if err := checkIndex(index, in); err != nil {
		return err
	}
	// A subtree is a tree of its own, and a leaf is one of its subtrees.
	at := index - in.Start
	return CheckConsistency(p, Range{at, at + 1}, leaf, tlog.Tree{N: in.End - in.Start, Hash: hash})
}

// ProveConsistency proves that a subtree is in the tree of the first size leaves
// (section 4.4.1), from the stored hashes of that tree or of a larger one.
func ProveConsistency(r Range, size int64, hashes tlog.HashReader) (Proof, error) {
	if err := checkIn(r, size); err != nil {
		return nil, err
	}
	return prove(r, Range{0, size}, hashes)
}

func checkIn(r Range, size int64) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.End > size || size > maxLeaves {
		return fmt.Errorf("%v is not in a tree of %d leaves", r, size)
	}
	return nil
}

// prove proves that a subtree, counted from the start of a tree, is in it.
func prove(r Range, tree Range, hashes tlog.HashReader) (Proof, error) {
	if r.Start == r.End {
		return nil, nil
	}
	r = Range{tree.Start + r.Start, tree.Start + r.End}
	part, whole := r, tree
	var rest []Range // what the proof's hashes are of, the last one first
	known := true    // the verifier knows the hash of what is left of r
	for r != tree {
		mid := tree.Start + bitCeil(tree.End-tree.Start)/2
		left, right := Range{tree.Start, mid}, Range{mid, tree.End}
		if r.End <= mid {
			tree, rest = left, append(rest, right)
			continue
		}
		if r.Start < mid {
			r.Start, known = mid, false
		}
		tree, rest = right, append(rest, left)
	}
	var parts []Range
	if !known {
		parts = append(parts, r)
	}
	for i := len(rest) - 1; i >= 0; i-- {
		parts = append(parts, rest[i])
	}
	out, err := read(parts, hashes)
	if err != nil {
		return nil, fmt.Errorf("proving %v in %v: %w", part, whole, err)
	}
	return out, nil
}

// CheckConsistency verifies that the subtree with a hash is in a tree
// (section 4.4.3). It is about all of the subtree's leaves, also if the proof was
// made by somebody who wants to deceive.
func CheckConsistency(p Proof, r Range, hash tlog.Hash, tree tlog.Tree) error {
	if err := checkIn(r, tree.N); err != nil {
		return err
	}
	if len(p) > MaxProof {
		return fmt.Errorf("a proof of %d hashes: at most %d", len(p), MaxProof)
	}
	if r.Start == r.End {
		if len(p) != 0 || hash != sha256.Sum256(nil) {
			return fmt.Errorf("%v in a tree of %d leaves: %w", r, tree.N, errProof)
		}
		return nil
	}
	gotPart, gotWhole, ok := follow(p, walk{r.Start, r.End - 1, tree.N - 1}, hash)
	if !ok || gotPart != hash || gotWhole != tree.Hash {
		return fmt.Errorf("%v in a tree of %d leaves: %w", r, tree.N, errProof)
	}
	return nil
}

// walk is where three ways from leaves to the root are: those of the subtree's
// first and last leaf, and of the tree's last one. The draft calls them fn, sn, tn.
type walk struct{ first, last, end int64 }

func (w *walk) up() { w.first, w.last, w.end = w.first>>1, w.last>>1, w.end>>1 }

// follow goes a proof's way: it makes the subtree's hash and the tree's of the
// proof's hashes and, where the tree has the subtree as one node, of that one's.
func follow(p Proof, w walk, hash tlog.Hash) (part, whole tlog.Hash, ok bool) {
	// Up to the node from which on the two hashes are made of different parts.
	for w.first != w.last && (w.last == w.end || w.last&1 == 1) {
		w.up()
	}
	part, whole = hash, hash
	if w.first != w.last {
		if len(p) == 0 {
			return part, whole, false
		}
		part, whole, p = p[0], p[0], p[1:]
	}
	for _, h := range p {
		if w.end == 0 {
			return part, whole, false // it is longer than the way
		}
		if w.last&1 == 1 || w.last == w.end {
			if w.first < w.last {
				part = tlog.NodeHash(h, part)
			}
			whole = tlog.NodeHash(h, whole)
			for w.last&1 == 0 {
				w.up()
			}
		} else {
			whole = tlog.NodeHash(whole, h)
		}
		w.up()
	}
	return part, whole, w.end == 0
}
