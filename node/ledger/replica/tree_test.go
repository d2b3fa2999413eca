package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// treeEntry is the i'th entry of the trees in these tests.
func treeEntry(i int64) []byte { return fmt.Appendf(nil, "%d%s", i, strings.Repeat("x", int(i%61))) }

func treeEntries(from, to int64) (out [][]byte) {
	for i := from; i < to; i++ {
		out = append(out, treeEntry(i))
	}
	return out
}

// wantTree are all hashes of the tree of the first size entries.
func wantTree(t *testing.T, size int64) *storedHashes {
	t.Helper()
	s := new(storedHashes)
	for i := range size {
		h := tlog.RecordHash(treeEntry(i))
		if err := s.add(h[:]); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func mustOpenTree(t *testing.T, path string) *Tree {
	t.Helper()
	tree, err := OpenTree(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// checkTree fails the test unless a tree has some entries, by all ways to read it.
func checkTree(t *testing.T, tree *Tree, size int64) {
	t.Helper()
	want := wantTree(t, size)
	if tree.Now().N != size {
		t.Fatalf("%d entries, want %d", tree.Now().N, size)
	}
	for _, n := range []int64{0, 1, size / 3, size / 256 * 256, size} {
		n = min(n, size)
		root, err1 := tlog.TreeHash(n, want)
		got, err2 := tree.Root(t.Context(), n)
		if err := errors.Join(err1, err2); err != nil || got != root {
			t.Errorf("root of %d in %d: %v, want %v (%v)", n, size, got, root, err)
		}
	}
	for _, tile := range tlog.NewTiles(torchwood.TileHeight, 0, size) {
		data, err1 := tlog.ReadTileData(tile, want)
		got, err2 := tree.ReadTile(size, tile)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(got, data) {
			t.Errorf("tile %s of %d: %d bytes, want %d (%v)", tile.Path(), size, len(got), len(data), err)
		}
	}
	for n := int64(0); n*256 < size; n++ {
		tile := tlog.Tile{H: 8, L: -1, N: n, W: int(min(256, size-n*256))}
		var bundle []byte
		for i := n * 256; i < n*256+int64(tile.W); i++ {
			bundle, _ = torchwood.AppendTileEntry(bundle, treeEntry(i)) // none is too long
		}
		if got, err := tree.ReadTile(size, tile); err != nil || !bytes.Equal(got, bundle) {
			t.Errorf("bundle %d of %d: %d bytes, want %d (%v)", n, size, len(got), len(bundle), err)
		}
	}
}

// Whatever the lengths in which entries come, also some again, the tree is that of all
// of them, now and when it is opened again.
func TestTreeGrows(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		path := t.TempDir()
		tree := mustOpenTree(t, path)
		checkTree(t, tree, 0)
		for size := int64(0); size < 2_500; {
			from := max(0, size-random.Int64N(300))
			to := max(size, from+random.Int64N(700))
			if err := tree.Append(t.Context(), from, treeEntries(from, to)); err != nil {
				t.Fatal(err)
			}
			if random.IntN(3) == 0 {
				tree.Close()
				tree = mustOpenTree(t, path)
			}
			checkTree(t, tree, to)
			size = to
		}
	}
}

// What a crash left of an Append that did not end is no part of the tree, and not in the
// way of the next one.
func TestTreeIgnoresWhatACrashLeft(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	tree := mustOpenTree(t, path)
	if err := tree.Append(t.Context(), 0, treeEntries(0, 300)); err != nil {
		t.Fatal(err)
	}
	tree.Close()
	for _, name := range []string{"tile/entries/001", "tile/entries/001.p/77", "tile/entries/002", "tile/1/000.p/2", "tile/entries/x001/000", ".new-1"} {
		file := filepath.Join(path, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("half"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	tree = mustOpenTree(t, path)
	checkTree(t, tree, 300)
	if err := tree.Append(t.Context(), 300, treeEntries(300, 900)); err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree, 900)
	// Across the folder in which the next thousand bundles are.
	if err := tree.Append(t.Context(), 900, treeEntries(900, 256_300)); err != nil {
		t.Fatal(err)
	}
	if got, err := tree.ReadTile(256_300, tlog.Tile{H: 8, L: -1, N: 1000, W: 256}); err != nil || len(got) < 1000 {
		t.Errorf("the thousandth bundle: %d bytes, %v", len(got), err)
	}
}

// Entries that are missing before, trees that do not exist, and damaged files are errors.
func TestTreeRefuses(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	tree := mustOpenTree(t, path)
	if err := tree.Append(t.Context(), 0, treeEntries(0, 600)); err != nil {
		t.Fatal(err)
	}
	for _, from := range []int64{-1, 601} {
		if err := tree.Append(t.Context(), from, treeEntries(0, 9)); err == nil || tree.Now().N != 600 {
			t.Errorf("from %d: %v", from, err)
		}
	}
	if _, err := tree.Root(t.Context(), 601); err == nil {
		t.Error("a root of more entries than there are")
	}
	for _, none := range []tlog.Tile{{H: 8, L: -1, N: 3, W: 1}, {H: 8, L: 0, N: 2, W: 89}, {H: 8, L: 1, N: 0, W: 3}, {H: 8, L: 8, N: 0, W: 1}} {
		if _, err := tree.ReadTile(600, none); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("tile %s: %v", none.Path(), err)
		}
	}
	if _, err := tree.ReadTile(300, tlog.Tile{H: 8, L: 0, N: 1, W: 45}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tile of a larger tree: %v", err)
	}
	if err := os.Remove(filepath.Join(path, "tile/entries/000")); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.ReadTile(600, tlog.Tile{H: 8, L: -1, N: 0, W: 256}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bundle that is gone: %v", err)
	}
	tree.Close()
	if err := tree.Append(t.Context(), 600, treeEntries(600, 601)); err == nil {
		t.Error("a closed tree grows")
	}
	if err := os.WriteFile(filepath.Join(path, "tile/entries/002.p/88"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTree(context.Background(), path); err == nil {
		t.Error("a damaged edge is opened")
	}
}
