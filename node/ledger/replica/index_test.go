package replica

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// rootAt is a ledger's root at a size, for an index that knows no ledger.
func rootAt(size int64) (tlog.Hash, error) { return tlog.RecordHash(fmt.Append(nil, size)), nil }

// fill indexes blocks up to n: block i is the newest of image i%10.
func fill(t *testing.T, x *index, n int64) {
	t.Helper()
	for i := x.blocks(); i < n; i++ {
		leaf := tlog.RecordHash(fmt.Append(nil, i))
		err := x.add(&batch{
			leaves: leaf[:], offsets: []uint32{uint32(i) * 100},
			records: []record{makeRecord(indexKey(i%10), 0), makeRecord(indexKey(1000+i), 0)},
			names:   fmt.Appendf(nil, "docker.io/library/i%d:%d\n", i%10, i%3),
		}, rootAt)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func heightsOf(t *testing.T, x *index, key indexKey, below int64) (out []int64) {
	t.Helper()
	if err := x.heights(key, below, func(h int64) bool { out = append(out, h); return true }); err != nil {
		t.Error(err)
	}
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
			if tags, err := x.tagsOf("docker.io/library/i4", after, 2); err != nil || !slices.Equal(tags, want) {
				t.Errorf("tags after %q: %q, %v, want %q", after, tags, err, want)
			}
		}
		for _, h := range []int64{0, 17, 63, 66} {
			leaf := tlog.RecordHash(fmt.Append(nil, h))
			if got, err := x.leaves(h, 1); err != nil || !bytes.Equal(got, leaf[:]) {
				t.Errorf("leaf %d: %x, %v", h, got, err)
			}
			if got, err := x.offset(h); err != nil || got != uint32(h)*100 {
				t.Errorf("offset %d: %d, %v", h, got, err)
			}
		}
		if _, err := x.leaves(69, 2); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("a leaf that is not indexed: %v", err)
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
	fill(t, x, 70)
	check(x)
}

func TestIndexKeepsWhatIsOfTheLedger(t *testing.T) {
	other := func(from int64) rootFunc {
		return func(size int64) (tlog.Hash, error) {
			if size >= from {
				return tlog.Hash{}, nil
			}
			return rootAt(size)
		}
	}
	for name, tc := range map[string]struct {
		size int64
		root rootFunc
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
			x, err := openIndex(folder, 16)
			if err != nil {
				t.Fatal(err)
			}
			defer x.close()
			fill(t, x, 70)
			if err := x.keep(tc.size, 0, tc.root); err != nil || x.blocks() != tc.want {
				t.Errorf("%d blocks are kept, %v, want %d", x.blocks(), err, tc.want)
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
		x, err := openIndex(t.TempDir(), 16)
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		fill(t, x, 70)
		if err := x.keep(head, head, rootAt); err != nil || x.blocks() != head {
			t.Errorf("head %d: %d blocks are kept, %v", head, x.blocks(), err)
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
			if got, err := x.leaves(h, 1); err != nil || !bytes.Equal(got, leaf[:]) {
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
	x, err := openIndex(t.TempDir(), 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	const greatest = 1<<48 - 1
	for i := range 2 * 4096 {
		b := &batch{leaves: make([]byte, tlog.HashSize), offsets: []uint32{0}, records: []record{makeRecord(indexKey(i%2)*greatest, 0)}}
		if err := x.add(b, rootAt); err != nil {
			t.Fatal(err)
		}
	}
	for key, newest := range map[indexKey]int64{0: 8190, greatest: 8191} {
		got := heightsOf(t, x, key, 8192)
		if len(got) != 4096 || got[0] != newest || got[4095] != newest%2 {
			t.Errorf("key %x: %d blocks from %d on", key, len(got), got[0])
		}
	}
	if got := heightsOf(t, x, 1, 8192); len(got) != 0 {
		t.Errorf("a key that no block has: %v", got)
	}
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
	for _, at := range []int{3, 20, 60, 1500, pageSize*3 + 5} { // magic, size, checksum, a leaf, a record
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
		if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(t, x, 3, 70)); diff != "" {
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
	f.Add(bytes.Replace(seed, []byte("registry.example"), []byte(`reg\"istry`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := new(batch)
		b.entry(data, 7)
		strict, err := ledger.ParseEntry(data)
		if err != nil {
			return // such a block is found, and refused when it is read
		}
		want := []digest.Digest{strict.Digest, strict.Pieces}
		for _, p := range strict.Platforms {
			want = append(want, p.Digest, p.Config)
		}
		keys := map[record]bool{makeRecord(imageKey([]byte(strict.Artifact)), 7): true}
		for _, d := range want {
			k, _ := digestKey([]byte(d))
			keys[makeRecord(k, 7)] = true
		}
		for _, r := range b.records {
			if !keys[r] {
				t.Errorf("%q: record %x is of nothing that it names", data, r)
			}
		}
		if len(b.records) != len(keys) || string(b.names) != strict.Artifact+"\n" {
			t.Errorf("%q: %d records, want %d; names %q", data, len(b.records), len(keys), b.names)
		}
	})
}

// Whatever a file holds, it is a segment or is refused.
func FuzzParseSegment(f *testing.F) {
	t := newTail(0)
	t.add(&batch{leaves: make([]byte, tlog.HashSize), offsets: []uint32{0}, records: []record{1}, names: []byte("a:1\n")})
	s, err := writeSegment(f.TempDir(), t, tlog.Hash{})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(s.file)
	if err := errors.Join(err, s.close()); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < segmentHeader+sha256.Size {
			return
		}
		data = slices.Clone(data)
		sum := segmentSum(data) // the checks behind the checksum
		copy(data[segmentHeader:], sum[:])
		name := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := readSegment(name)
		if err != nil {
			return
		}
		defer s.close()
		if _, err := s.heights(1, s.to, func(int64) bool { return true }); err != nil {
			t.Error(err)
		}
		for _, l := range s.images {
			if _, err := s.tags(l.repository); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.leaves(nil, s.from, s.blocks()); err != nil {
			t.Error(err)
		}
	})
}
