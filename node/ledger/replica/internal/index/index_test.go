package index

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// rootAt is a ledger's root at a size, for an index that knows no ledger.
func rootAt(size int64) (tlog.Hash, error) { return tlog.RecordHash(fmt.Append(nil, size)), nil }

// fill indexes blocks up to n: block i is the newest of image i%10.
func fill(t *testing.T, x *Index, n int64) {
	t.Helper()
	for i := x.Blocks(); i < n; i++ {
		leaf := tlog.RecordHash(fmt.Append(nil, i))
		err := x.Add(&Batch{
			leaves: leaf[:], offsets: []uint32{uint32(i) * 100},
			records: []record{makeRecord(Key(i%10), 0), makeRecord(Key(1000+i), 0)},
			names:   fmt.Appendf(nil, "docker.io/library/i%d:%d\n", i%10, i%3),
		}, rootAt)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func heightsOf(t *testing.T, x *Index, key Key, below int64) (out []int64) {
	t.Helper()
	if err := x.Heights(key, below, func(h int64) bool { out = append(out, h); return true }); err != nil {
		t.Error(err)
	}
	return out
}

func TestIndexFindsBlocksInSegmentsAndTail(t *testing.T) {
	folder := t.TempDir()
	x, err := Open(folder, 16)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, x, 70) // four segments and a tail of six
	check := func(x *Index) {
		t.Helper()
		if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(t, x, 3, 70)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{23, 13, 3}, heightsOf(t, x, 3, 33)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{69}, heightsOf(t, x, 1069, 70)); diff != "" {
			t.Error(diff)
		}
		for after, want := range map[string][]string{"": {"0", "1"}, "0": {"1", "2"}, "00": {"1", "2"}} {
			if tags, err := x.Tags("docker.io/library/i4", after, 2); err != nil || !slices.Equal(tags, want) {
				t.Errorf("tags after %q: %q, %v, want %q", after, tags, err, want)
			}
		}
		for _, h := range []int64{0, 17, 63, 66} {
			leaf := tlog.RecordHash(fmt.Append(nil, h))
			if got, err := x.Leaves(h, 1); err != nil || !bytes.Equal(got, leaf[:]) {
				t.Errorf("leaf %d: %x, %v", h, got, err)
			}
			if got, err := x.Offset(h); err != nil || got != uint32(h)*100 {
				t.Errorf("offset %d: %d, %v", h, got, err)
			}
		}
		if _, err := x.Leaves(69, 2); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("a leaf that is not indexed: %v", err)
		}
		if got := len(x.Repositories()); got != 10 {
			t.Errorf("%d repositories, want 10", got)
		}
	}
	check(x)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err = Open(folder, 16); err != nil {
		t.Fatal(err)
	}
	if x.Blocks() != 64 {
		t.Errorf("after a restart %d blocks are indexed, want the segments' 64", x.Blocks())
	}
	fill(t, x, 70)
	check(x)
}

func TestIndexKeepsWhatIsOfTheLedger(t *testing.T) {
	other := func(from int64) RootFunc {
		return func(size int64) (tlog.Hash, error) {
			if size >= from {
				return tlog.Hash{}, nil
			}
			return rootAt(size)
		}
	}
	for name, tc := range map[string]struct {
		size int64
		root RootFunc
		want int64
	}{
		"the whole ledger":       {70, rootAt, 64},
		"a shorter one":          {63, rootAt, 48},
		"one that differs later": {70, other(40), 32},
		"another one":            {70, other(0), 0},
		"none":                   {0, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			x, err := Open(folder, 16)
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			fill(t, x, 70)
			if err := x.Keep(tc.size, 0, tc.root); err != nil || x.Blocks() != tc.want {
				t.Errorf("%d blocks are kept, %v, want %d", x.Blocks(), err, tc.want)
			}
			if files, _ := filepath.Glob(filepath.Join(folder, "*")); len(files) != int(tc.want)/16 {
				t.Errorf("files %q", files)
			}
			fill(t, x, 70)
			if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(t, x, 3, 70)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is asked for stays, also when its segment goes because of later blocks.
func TestIndexKeepsTheHead(t *testing.T) {
	for _, head := range []int64{0, 16, 40, 64, 67, 70} {
		x, err := Open(t.TempDir(), 16)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		fill(t, x, 70)
		if err := x.Keep(head, head, rootAt); err != nil || x.Blocks() != head {
			t.Errorf("head %d: %d blocks are kept, %v", head, x.Blocks(), err)
		}
		var want []int64
		for h := int64(63); h >= 3; h -= 10 {
			if h < head {
				want = append(want, h)
			}
		}
		if diff := cmp.Diff(want, heightsOf(t, x, 3, head)); diff != "" {
			t.Errorf("head %d: %s", head, diff)
		}
		for h := range head {
			leaf := tlog.RecordHash(fmt.Append(nil, h))
			if got, err := x.Leaves(h, 1); err != nil || !bytes.Equal(got, leaf[:]) {
				t.Errorf("head %d: leaf %d: %x, %v", head, h, got, err)
			}
		}
		fill(t, x, 70)
		if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(t, x, 3, 70)); diff != "" {
			t.Errorf("head %d: %s", head, diff)
		}
	}
}

// The greatest key, and one that fills many pages.
func TestIndexFindsManyBlocksOfOneKey(t *testing.T) {
	x, err := Open(t.TempDir(), 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	const greatest = 1<<48 - 1
	for i := range 2 * 4096 {
		b := &Batch{leaves: make([]byte, tlog.HashSize), offsets: []uint32{0}, records: []record{makeRecord(Key(i%2)*greatest, 0)}}
		if err := x.Add(b, rootAt); err != nil {
			t.Fatal(err)
		}
	}
	for key, newest := range map[Key]int64{0: 8190, greatest: 8191} {
		got := heightsOf(t, x, key, 8192)
		if len(got) != 4096 || got[0] != newest || got[4095] != newest%2 {
			t.Errorf("key %x: %d blocks from %d on", key, len(got), got[0])
		}
	}
	if got := heightsOf(t, x, 1, 8192); len(got) != 0 {
		t.Errorf("a key that no block has: %v", got)
	}
}
