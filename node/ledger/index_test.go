package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
)

// rootAt is a ledger's root at a size, for an index that knows no ledger.
func rootAt(size int64) (tlog.Hash, error) { return tlog.RecordHash(fmt.Append(nil, size)), nil }

// fill indexes blocks up to n: block i is the newest of image i%10.
func fill(t *testing.T, x *index, n int64) {
	t.Helper()
	for i := x.blocks(); i < n; i++ {
		image := fmt.Sprintf("docker.io/library/i%d:%d", i%10, i%3)
		if err := x.add(indexed{image: image, keys: []indexKey{indexKey(i % 10), indexKey(1000 + i), indexKey(1000 + i)}}, rootAt); err != nil {
			t.Fatal(err)
		}
	}
}

func heightsOf(x *index, key indexKey, below int64) (out []int64) {
	x.heights(key, below, func(h int64) bool { out = append(out, h); return true })
	return out
}

func TestIndexFindsBlocksInSegmentsAndTail(t *testing.T) {
	folder := t.TempDir()
	x, err := openIndex(folder, 16)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, x, 70) // four segments and a tail of six
	check := func(x *index) {
		t.Helper()
		if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(x, 3, 70)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{23, 13, 3}, heightsOf(x, 3, 33)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{69}, heightsOf(x, 1069, 70)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"1", "2"}, x.tagsOf("docker.io/library/i4", "0", 9)); diff != "" {
			t.Error(diff)
		}
		if got := len(x.repositories()); got != 10 {
			t.Errorf("%d repositories, want 10", got)
		}
	}
	check(x)
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	if x, err = openIndex(folder, 16); err != nil {
		t.Fatal(err)
	}
	if x.blocks() != 64 {
		t.Errorf("after a restart %d blocks are indexed, want the segments' 64", x.blocks())
	}
	if ours, err := x.belongs(rootAt); err != nil || !ours {
		t.Errorf("belongs: %v, %v", ours, err)
	}
	if ours, _ := x.belongs(func(int64) (tlog.Hash, error) { return tlog.Hash{}, nil }); ours {
		t.Error("the index of another ledger was taken for this one's")
	}
	fill(t, x, 70)
	check(x)
	if err := x.reset(); err != nil {
		t.Fatal(err)
	}
	fill(t, x, 70)
	check(x)
}

func TestCorruptSegmentIsDroppedWithWhatFollows(t *testing.T) {
	folder := t.TempDir()
	x, err := openIndex(folder, 16)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, x, 70)
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(folder, "*"+segmentSuffix))
	slices.Sort(files)
	for _, at := range []int64{3, 20, segmentHeader + 5} { // magic, size, a record
		data, err := os.ReadFile(files[2])
		if err != nil {
			t.Fatal(err)
		}
		data[at] ^= 1
		if err := os.WriteFile(files[2], data, 0o644); err != nil {
			t.Fatal(err)
		}
		if x, err = openIndex(folder, 16); err != nil {
			t.Fatal(err)
		}
		if x.blocks() != 32 {
			t.Errorf("byte %d: %d blocks are indexed, want 32", at, x.blocks())
		}
		fill(t, x, 70)
		if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(x, 3, 70)); diff != "" {
			t.Error(diff)
		}
		if err := x.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The quick reader of entries and the strict one agree.
func FuzzScanEntry(f *testing.F) {
	seed, err := artifact(alpine, "x").Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		strict, err := ParseEntry(data)
		if err != nil {
			return // such a block is found, and refused when it is read
		}
		quick, err := scanEntry(data)
		if err != nil || quick.image != strict.Artifact || len(quick.keys) != 3+2*len(strict.Platforms) {
			t.Errorf("%q: quick %+v, %v; strict %+v", data, quick, err, strict)
		}
	})
}
