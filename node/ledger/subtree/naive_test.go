package subtree

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// vectorSize is the size of the largest tree of the draft's test vectors.
const vectorSize = 130

// leaf is the hash of the draft's i'th entry; those after the 256th repeat them.
func leaf(i int64) tlog.Hash { return tlog.RecordHash([]byte{byte(i)}) }

// leaves are the hashes of the draft's entries in a range.
func leaves(r Range) (out []tlog.Hash) {
	for i := r.Start; i < r.End; i++ {
		out = append(out, leaf(i))
	}
	return out
}

// naiveHash is MTH as the draft and RFC 9162 define it.
func naiveHash(d []tlog.Hash) tlog.Hash {
	if len(d) == 0 {
		return sha256.Sum256(nil)
	}
	if len(d) == 1 {
		return d[0]
	}
	k := split(len(d))
	return tlog.NodeHash(naiveHash(d[:k]), naiveHash(d[k:]))
}

// split is the largest power of two below n.
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

// naiveProof is SUBTREE_SUBPROOF as the draft defines it.
func naiveProof(start, end int, d []tlog.Hash, known bool) Proof {
	if start == 0 && end == len(d) {
		if known {
			return nil
		}
		return Proof{naiveHash(d)}
	}
	k := split(len(d))
	switch {
	case end <= k:
		return append(naiveProof(start, end, d[:k], known), naiveHash(d[k:]))
	case k <= start:
		return append(naiveProof(start-k, end-k, d[k:], known), naiveHash(d[:k]))
	default:
		return append(naiveProof(0, end-k, d[k:], false), naiveHash(d[:k]))
	}
}

// log are the stored hashes of a log of the draft's entries.
type log []tlog.Hash

func (l log) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		if i < 0 || i >= int64(len(l)) {
			return nil, fmt.Errorf("there is no hash %d", i)
		}
		out = append(out, l[i])
	}
	return out, nil
}

func newLog(tb testing.TB, size int64) (l log) {
	tb.Helper()
	for i := range size {
		added, err := tlog.StoredHashesForRecordHash(i, leaf(i), l)
		if err != nil {
			tb.Fatal(err)
		}
		l = append(l, added...)
	}
	return l
}

// ranges calls do with each range that ends at most at size.
func ranges(size int64, do func(Range)) {
	for end := range size + 1 {
		for start := range end + 1 {
			do(Range{start, end})
		}
	}
}

// subtrees calls do with each range of them that is a subtree by the definition.
func subtrees(size int64, do func(Range)) {
	ranges(size, func(r Range) {
		width := int64(1)
		for width < r.End-r.Start {
			width *= 2
		}
		if r.Start%width == 0 {
			do(r)
		}
	})
}

func writeProof(h hash.Hash, what string, p Proof) {
	fmt.Fprint(h, what)
	for _, one := range p {
		fmt.Fprintf(h, " %x", one[:])
	}
	fmt.Fprintln(h)
}
