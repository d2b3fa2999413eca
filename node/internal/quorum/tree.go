package quorum

import (
	"crypto/sha256"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is a ledger up to some block: its size in blocks and its root hash. The
// zero Tree is the ledger without blocks, whatever its root is said to be.
type Tree struct {
	Size int64     `json:"size"`
	Root tlog.Hash `json:"root"`
}

func (t Tree) String() string {
	if t.Size == 0 {
		return "the empty tree"
	}
	return fmt.Sprintf("tree %d %.8s", t.Size, t.Root.String())
}

// Signed is a tree with the note in which the log has signed it.
type Signed struct {
	Tree Tree   `json:"tree"`
	Note []byte `json:"note,omitempty"`
}

// A Consistency is evidence that a tree grew out of another one.
type Consistency interface {
	// Grew returns nil if old is the beginning of next. It is asked only for
	// 0 < old.Size < next.Size.
	Grew(old, next Tree) error
}

// Proof is a consistency proof of RFC 6962, section 2.1.2, as it stands in a
// request of c2sp.org/tlog-witness. It is verified here and not by the caller, so
// that no way in can forget it.
type Proof []tlog.Hash

// Grew verifies the proof.
func (p Proof) Grew(old, next Tree) error {
	return tlog.CheckTree(tlog.TreeProof(p), next.Size, next.Root, old.Size, old.Root)
}

// Roots are the root hashes by size of one history, as the caller has computed
// them from entries that it holds itself. A root that is missing proves nothing.
type Roots map[int64]tlog.Hash

// Grew compares both trees with the history.
func (r Roots) Grew(old, next Tree) error {
	for _, t := range []Tree{old, next} {
		if root, ok := r[t.Size]; !ok {
			return fmt.Errorf("no root was computed at size %d", t.Size)
		} else if root != t.Root {
			return fmt.Errorf("the entries give root %v at size %d, not %v", root, t.Size, t.Root)
		}
	}
	return nil
}

// grew is Consistency.Grew for trees of any two sizes.
func grew(c Consistency, old, next Tree) error {
	switch {
	case old.Size > next.Size:
		return fmt.Errorf("%v is larger than %v", old, next)
	case old.Size == 0:
		return nil
	case old.Size == next.Size:
		if old.Root != next.Root {
			return fmt.Errorf("two roots at size %d: %v and %v", old.Size, old.Root, next.Root)
		}
		return nil
	case c == nil:
		return fmt.Errorf("nothing shows that %v grew into %v", old, next)
	}
	return c.Grew(old, next)
}

// emptyRoot is the root of a tree without entries (RFC 6962, section 2.1).
var emptyRoot = tlog.Hash(sha256.Sum256(nil))
