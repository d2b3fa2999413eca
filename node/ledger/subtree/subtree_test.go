package subtree

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// The accumulated test vectors of the draft, appendix "Subtree Test Vectors": one
// hash over the answers to all questions about trees of up to 130 leaves.
func TestVectorsOfTheDraft(t *testing.T) {
	t.Parallel()
	l := newLog(t, vectorSize)
	for name, tt := range map[string]struct {
		want string
		add  func(h hash.Hash) error
	}{
		"hashes": {"b82806ad4265bb151c1119c0f4db437bb4d1a1f887b3a7fba1cd4ebf552e3e81", func(h hash.Hash) (err error) {
			subtrees(vectorSize, func(r Range) {
				got, herr := Hash(r, l)
				err = errors.Join(err, herr)
				fmt.Fprintf(h, "%v %x\n", r, got[:])
			})
			return err
		}},
		"inclusion proofs": {"ac2a8f989e44d99e399db448050ff5f19757df53cfb716aa81015d3955d8163f", func(h hash.Hash) (err error) {
			subtrees(vectorSize, func(r Range) {
				for i := r.Start; i < r.End; i++ {
					p, perr := ProveInclusion(i, r, l)
					err = errors.Join(err, perr)
					writeProof(h, fmt.Sprintf("%d %v", i, r), p)
				}
			})
			return err
		}},
		"consistency proofs": {"10fa99b37bf9bf9ffa26b412fbd98bd75363256d0b75d61bc4538b9c9c5a0a74", func(h hash.Hash) (err error) {
			for n := range int64(vectorSize + 1) {
				subtrees(n, func(r Range) {
					p, perr := ProveConsistency(r, n, l)
					err = errors.Join(err, perr)
					writeProof(h, fmt.Sprintf("%v %d", r, n), p)
				})
			}
			return err
		}},
		"covers": {"7fd9c8b926e9d2b5cf831560e8ce295a5ef97ad5c5ede4ea0dea28a8c8fc8bb0", func(h hash.Hash) (err error) {
			ranges(vectorSize, func(r Range) {
				left, right, cerr := Cover(r)
				err = errors.Join(err, cerr)
				fmt.Fprintf(h, "%v %v\n", left, right)
			})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := sha256.New()
			if err := tt.add(h); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%x", h.Sum(nil)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// Every subtree of every tree of up to 70 leaves, and a sample of larger ones: hashes
// and proofs are those of the definitions, proofs verify, and not for anything else.
func TestAgainstTheDefinitions(t *testing.T) {
	t.Parallel()
	const all, largest = 70, 600
	l := newLog(t, largest)
	r := rand.New(rand.NewPCG(1, 2))
	for n := range int64(all + 1) {
		subtrees(n, func(s Range) { checkSubtree(t, l, s, n, r) })
	}
	for range 400 {
		n := all + r.Int64N(largest-all) + 1
		level := r.IntN(10)
		start := r.Int64N(n) >> level << level
		checkSubtree(t, l, Range{start, start + r.Int64N(min(1<<level, n-start)+1)}, n, r)
	}
}

func checkSubtree(t *testing.T, l log, s Range, n int64, r *rand.Rand) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	want := naiveHash(leaves(s))
	if got, err := Hash(s, l); err != nil || got != want || HashLeaves(leaves(s)) != want {
		t.Errorf("%v: hash %v or %v (%v), want %v", s, got, HashLeaves(leaves(s)), err, want)
	}
	d := leaves(Range{0, n})
	tree := tlog.Tree{N: n, Hash: naiveHash(d)}
	var wantProof Proof
	if s.Start < s.End {
		wantProof = naiveProof(int(s.Start), int(s.End), d, true)
	}
	p, err := ProveConsistency(s, n, l)
	if err != nil || !slices.Equal(p, wantProof) {
		t.Errorf("%v in %d: proof %v (%v), want %v", s, n, p, err, wantProof)
	}
	if err := CheckConsistency(p, s, want, tree); err != nil {
		t.Errorf("%v in %d: %v", s, n, err)
	}
	if s.Start == 0 && s.End > 0 { // RFC 6962 knows these too
		if err := tlog.CheckTree(tlog.TreeProof(p), n, tree.Hash, s.End, want); err != nil {
			t.Errorf("%v in %d: as a proof of RFC 6962: %v", s, n, err)
		}
	}
	refuse(t, p, s, want, tree, r)
	if s.Start < s.End {
		checkInclusion(t, l, s, want, r)
	}
}

func checkInclusion(t *testing.T, l log, s Range, hash tlog.Hash, r *rand.Rand) {
	t.Helper()
	i := s.Start + r.Int64N(s.End-s.Start)
	p, err := ProveInclusion(i, s, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckInclusion(p, i, leaf(i), s, hash); err != nil {
		t.Errorf("leaf %d in %v: %v", i, s, err)
	}
	for what, err := range map[string]error{
		"another leaf":           CheckInclusion(p, i, leaf(i+1), s, hash),
		"another hash":           CheckInclusion(p, i, leaf(i), s, flip(hash, r)),
		"a leaf outside":         CheckInclusion(p, s.End, leaf(s.End), s, hash),
		"a leaf before":          CheckInclusion(p, s.Start-1, leaf(s.Start), s, hash),
		"a hash too many":        CheckInclusion(append(slices.Clone(p), hash), i, leaf(i), s, hash),
		"a subtree that is none": CheckInclusion(p, i, leaf(i), Range{s.Start, s.Start - 1}, hash),
	} {
		if err == nil {
			t.Errorf("leaf %d in %v: verifies with %s", i, s, what)
		}
	}
	if len(p) > 0 && CheckInclusion(p[1:], i, leaf(i), s, hash) == nil {
		t.Errorf("leaf %d in %v: verifies without a hash of the proof", i, s)
	}
}

func flip(h tlog.Hash, r *rand.Rand) tlog.Hash {
	h[r.IntN(len(h))] ^= 1 << r.IntN(8)
	return h
}

// refuse fails the test if a proof verifies that was changed, or about anything else.
func refuse(t *testing.T, p Proof, s Range, hash tlog.Hash, tree tlog.Tree, r *rand.Rand) {
	t.Helper()
	lies := func(what string, p Proof, s Range, hash tlog.Hash, tree tlog.Tree) {
		if CheckConsistency(p, s, hash, tree) == nil {
			t.Errorf("%v in %d: verifies with %s", s, tree.N, what)
		}
	}
	lies("another hash of the subtree", p, s, flip(hash, r), tree)
	lies("a hash too many", append(slices.Clone(p), tree.Hash), s, hash, tree)
	lies("an end before its start", p, Range{s.End + 1, s.End}, hash, tree)
	lies("an end after the tree's", p, Range{s.Start, tree.N + 1}, hash, tree)
	lies("too many hashes", make(Proof, MaxProof+1), s, hash, tree)
	if s.Start == s.End {
		return // it says nothing about the tree
	}
	lies("another root", p, s, hash, tlog.Tree{N: tree.N, Hash: flip(tree.Hash, r)})
	for i := range p {
		changed := slices.Clone(p)
		changed[i] = flip(p[i], r)
		lies(fmt.Sprintf("hash %d changed", i), changed, s, hash, tree)
		lies(fmt.Sprintf("hash %d missing", i), slices.Delete(slices.Clone(p), i, i+1), s, hash, tree)
		lies(fmt.Sprintf("hash %d twice", i), slices.Insert(slices.Clone(p), i, p[i]), s, hash, tree)
	}
	// Where the subtree would be if it were elsewhere. Leaves repeat in this test only
	// after the 256th.
	for _, shift := range []int64{-1, 1, s.End - s.Start, s.Start - s.End} {
		other := Range{s.Start + shift, s.End + shift}
		if other.Check() == nil && other.End <= tree.N && shift != 0 {
			lies(fmt.Sprintf("its hash claimed of %v", other), p, other, hash, tree)
		}
	}
}

// A range is a subtree or is refused, by the definition alone, also where a power of
// two would overflow.
func TestRanges(t *testing.T) {
	t.Parallel()
	for r, ok := range map[Range]bool{
		{0, 0}:                                  true,
		{7, 7}:                                  true,
		{0, 13}:                                 true,
		{4, 8}:                                  true,
		{8, 13}:                                 true,
		{8, 17}:                                 false,
		{4, 9}:                                  false,
		{1, 3}:                                  false,
		{-1, 0}:                                 false,
		{-4, -2}:                                false,
		{3, 2}:                                  false,
		{0, maxLeaves}:                          true,
		{maxLeaves / 2, maxLeaves/2 + 9}:        true,
		{maxLeaves - 1, maxLeaves}:              true,
		{maxLeaves, maxLeaves + 1}:              false,
		{0, math.MaxInt64}:                      false,
		{math.MaxInt64, math.MaxInt64}:          false,
		{math.MinInt64, math.MaxInt64}:          false,
		{math.MinInt64, math.MinInt64}:          false,
		{maxLeaves/2 + 1, maxLeaves/2 + 1 + 16}: false,
	} {
		if err := r.Check(); (err == nil) != ok {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// A cover has what the draft promises of it (section 4.5).
func TestCoversAreTight(t *testing.T) {
	t.Parallel()
	check := func(r Range) {
		left, right, err := Cover(r)
		if err != nil || left.Check() != nil || right.Check() != nil {
			t.Fatalf("%v: %v and %v: %v, %v, %v", r, left, right, err, left.Check(), right.Check())
		}
		if left.End != right.Start || right.End != r.End || left.Start > r.Start || r.Start < r.End && r.Start-left.Start >= left.End-r.Start {
			t.Errorf("%v is covered by %v and %v", r, left, right)
		}
	}
	ranges(140, check)
	r := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		a, b := r.Int64N(maxLeaves+1)>>r.IntN(60), r.Int64N(maxLeaves+1)>>r.IntN(60)
		check(Range{min(a, b), max(a, b)})
	}
	for _, bad := range []Range{{-1, 4}, {5, 4}, {0, math.MaxInt64}} {
		if left, right, err := Cover(bad); err == nil {
			t.Errorf("%v is covered by %v and %v", bad, left, right)
		}
	}
}

// The longest ways there are end, and have as many hashes as a proof may have.
func TestProofsOfTheLargestTrees(t *testing.T) {
	t.Parallel()
	sizes := []int64{maxLeaves, maxLeaves - 1, maxLeaves/2 + 1}
	for _, n := range sizes {
		for _, s := range []Range{{0, n - 1}, {0, n/2 + 1}, {n - 1, n}, {n - 2, n - 1}, {0, 1}} {
			if s.Check() != nil {
				continue
			}
			p, err := ProveConsistency(s, n, endless{})
			if err != nil || len(p) > MaxProof {
				t.Errorf("%v in %d: %d hashes, %v", s, n, len(p), err)
			}
			whole, err := Hash(Range{0, n}, endless{})
			if err != nil {
				t.Fatal(err)
			}
			part, err := Hash(s, endless{})
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckConsistency(p, s, part, tlog.Tree{N: n, Hash: whole}); err != nil {
				t.Error(err)
			}
		}
	}
}

// endless is a log whose leaves are all the same.
type endless struct{}

func (endless) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	levels := []tlog.Hash{leaf(0)}
	for range 62 {
		h := levels[len(levels)-1]
		levels = append(levels, tlog.NodeHash(h, h))
	}
	for _, i := range indexes {
		level, _ := tlog.SplitStoredHashIndex(i)
		out = append(out, levels[level])
	}
	return out, nil
}
