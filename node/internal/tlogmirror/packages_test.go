package tlogmirror

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger/subtree"
)

// The packages of an upload are those that tlog-mirror lays down, for each start and end.
func TestSubtreesOfUploads(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 255, 256, 257, 600} {
		var leaves []tlog.Hash
		var all stored
		for i := range size {
			leaves = append(leaves, tlog.RecordHash(fmt.Append(nil, i)))
			added, err := tlog.StoredHashesForRecordHash(i, leaves[i], all)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, added...)
		}
		tree := tlog.Tree{N: size, Hash: subtree.HashLeaves(leaves)}
		for start := int64(0); start < size; start += 1 + size/97 {
			n := int64(0)
			for at := start; at < size; at, n = packageEnd(at, size), n+1 {
				// As the text has them, by the number of the package.
				lo, hi := max(start, start/256*256+n*256), min(size, start/256*256+(n+1)*256)
				if at != lo || packageEnd(at, size) != hi {
					t.Fatalf("package %d of %d to %d is [%d, %d), want [%d, %d)", n, start, size, at, packageEnd(at, size), lo, hi)
				}
				checkPackage(t, leaves, all, tree, lo, hi)
			}
			if want := (size+255)/256 - start/256; n != want {
				t.Errorf("%d packages of %d to %d, want %d", n, start, size, want)
			}
		}
	}
	if got := packageEnd(math.MaxInt64-1, math.MaxInt64); got != math.MaxInt64 {
		t.Errorf("the last package there can be ends at %d", got)
	}
}

// stored are the stored hashes of leaves.
type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		out = append(out, s[i])
	}
	return out, nil
}

// checkPackage sends a package, and others that differ in one thing.
func checkPackage(t *testing.T, leaves []tlog.Hash, all stored, tree tlog.Tree, lo, hi int64) {
	t.Helper()
	proof, err := subtree.ProveConsistency(subtree.Range{Start: rounded(lo), End: hi}, tree.N, all)
	if err != nil {
		t.Fatal(err)
	}
	var body []byte
	for i := lo; i < hi; i++ {
		entry := fmt.Append(nil, i)
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(entry))), entry...)
	}
	body = append(body, byte(len(proof)))
	for _, h := range proof {
		body = append(body, h[:]...)
	}
	read := func(body []byte) *entryPackage {
		p, err := readPackage(bufio.NewReader(bytes.NewReader(body)), lo, tree.N)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := leaves[rounded(lo):lo:lo]
	if err := read(body).check(before, tree); err != nil {
		t.Errorf("[%d, %d) of %d: %v", lo, hi, tree.N, err)
	}
	for i := 2; i < len(body); i += 1 + len(body)/7 {
		changed := bytes.Clone(body)
		changed[i] ^= 1
		p, err := readPackage(bufio.NewReader(bytes.NewReader(changed)), lo, tree.N)
		if err == nil && p.check(before, tree) == nil {
			t.Errorf("[%d, %d) of %d: it verifies with byte %d changed", lo, hi, tree.N, i)
		}
	}
	if len(before) > 0 {
		if read(body).check(append([]tlog.Hash{{}}, before[1:]...), tree) == nil {
			t.Errorf("[%d, %d) of %d: it verifies after other entries", lo, hi, tree.N)
		}
	}
}
