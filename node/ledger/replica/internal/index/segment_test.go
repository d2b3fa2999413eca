package index

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
)

// A segment that a program wrote which did not know version 2 lacks its blocks:
// it is made again.
func TestAnEarlierProgramsIndexIsMadeAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "000000000000-000000000001.seg")
	tail := newTail(0)
	tail.offsets, tail.leaves = []uint32{0}, make([]byte, 32)
	s, err := writeSegment(filepath.Dir(file), tail, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(data, "pyrsia index 2")
	sum := segmentSum(data)
	copy(data[segmentHeader:], sum[:])
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := Open(filepath.Dir(file), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, err := os.Stat(file); x.Blocks() != 0 || !os.IsNotExist(err) {
		t.Errorf("%d blocks are taken from it, stat: %v", x.Blocks(), err)
	}
}

func TestCorruptSegmentIsDroppedWithWhatFollows(t *testing.T) {
	folder := t.TempDir()
	x, err := Open(folder, 16)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, x, 70)
	if err := x.Close(); err != nil {
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
		if x, err = Open(folder, 16); err != nil {
			t.Fatal(err)
		}
		if x.Blocks() != 32 {
			t.Errorf("byte %d: %d blocks are indexed, want 32", at, x.Blocks())
		}
		fill(t, x, 70)
		if diff := cmp.Diff([]int64{63, 53, 43, 33, 23, 13, 3}, heightsOf(t, x, 3, 70)); diff != "" {
			t.Error(diff)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever a file holds, it is a segment or is refused.
func FuzzParseSegment(f *testing.F) {
	t := newTail(0)
	t.add(&Batch{leaves: make([]byte, tlog.HashSize), offsets: []uint32{0}, records: []record{1}, names: []byte("a:1\n")})
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
