package subtree

import (
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// Whatever a peer sends as a proof ends, and verifies only if it is the one proof
// that the definition makes.
func FuzzCheckConsistency(f *testing.F) {
	const size = 300
	l := newLog(f, size)
	for _, s := range []struct{ start, end, n int64 }{{0, 13, 14}, {8, 13, 14}, {4, 8, 14}, {256, 300, 300}, {0, 300, 300}, {5, 5, 9}} {
		p, err := ProveConsistency(Range{s.start, s.end}, s.n, l)
		if err != nil {
			f.Fatal(err)
		}
		var raw []byte
		for _, h := range p {
			raw = append(raw, h[:]...)
		}
		f.Add(s.start, s.end, s.n, raw)
	}
	f.Fuzz(func(t *testing.T, start, end, n int64, raw []byte) {
		var p Proof
		for ; len(raw) >= tlog.HashSize; raw = raw[tlog.HashSize:] {
			p = append(p, tlog.Hash(raw[:tlog.HashSize]))
		}
		s := Range{start, end}
		if n < 0 || n > size || s.Check() != nil || end > n {
			if CheckConsistency(p, s, tlog.Hash{}, tlog.Tree{N: n}) == nil {
				t.Fatalf("%v in %d verifies", s, n)
			}
			return
		}
		part, err := Hash(s, l)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := Hash(Range{0, n}, l)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ProveConsistency(s, n, l)
		if err != nil {
			t.Fatal(err)
		}
		if ok := CheckConsistency(p, s, part, tlog.Tree{N: n, Hash: whole}) == nil; ok != slices.Equal(p, want) {
			t.Fatalf("%v in %d: verifies %v with %v, want %v", s, n, ok, p, want)
		}
	})
}
