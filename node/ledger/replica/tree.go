package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// Tree are the entries and hashes of any log on disk, in the layout of
// c2sp.org/tlog-tiles: no checkpoint, no index, no opinion on what an entry says.
// Which tree the entries have to lead to the caller knows. All methods are safe for
// concurrent use.
type Tree struct {
	dir   dir
	cache *tileCache

	mu     sync.Mutex // serialises Append, and guards closed
	closed bool
	tree   atomic.Pointer[tlog.Tree] // what is durable; Append replaces it
}

// OpenTree opens or begins a tree. Only one process may have it open. Its right edge is
// verified; that the rest is whole is not.
func OpenTree(ctx context.Context, path string) (*Tree, error) {
	d := dir{path}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("opening the entries in %s: %w", path, err)
	}
	tree, begun, err := d.readState()
	if err != nil {
		return nil, fmt.Errorf("opening the entries in %s: %w", path, err)
	}
	if !begun {
		if tree.Hash, err = tlog.TreeHash(0, nil); err != nil {
			return nil, fmt.Errorf("opening the entries in %s: %w", path, err)
		}
	}
	// What a crash left beyond the tree's end in the edge's folders. In others it is
	// overwritten by the next Append that comes there.
	if err := d.sweep(tree.N); err != nil {
		return nil, fmt.Errorf("opening the entries in %s: %w", path, err)
	}
	t := &Tree{dir: d}
	if t.cache, err = newTileCache(d); err != nil {
		return nil, err
	}
	if _, err := (proven{ctx, t.cache, tree}).root(tree.N); err != nil {
		return nil, fmt.Errorf("opening the entries in %s: %w", path, err)
	}
	t.tree.Store(&tree)
	return t, nil
}

// Close ends all appending, so that another process may open the tree.
func (t *Tree) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// Now is the tree of all entries that are durable.
func (t *Tree) Now() tlog.Tree { return *t.tree.Load() }

// Append adds the entries from an index on that are not there yet. When it returns
// they are durable. The caller knows that they continue the tree; of those that are
// there already it knows that they are the same.
func (t *Tree) Append(ctx context.Context, from int64, entries [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("appending entries: the tree is closed")
	}
	now := t.Now()
	if from < 0 || from > now.N {
		return fmt.Errorf("appending entries from %d on: those from %d on are missing", from, now.N)
	}
	if from+int64(len(entries)) <= now.N {
		return nil
	}
	entries = entries[now.N-from:]
	ctx = context.WithoutCancel(ctx) // what is begun ends
	g, err := grown(proven{ctx, t.cache, now}, entries)
	if err != nil {
		return err
	}
	next := tlog.Tree{N: now.N + int64(len(entries))}
	if next.Hash, err = tlog.TreeHash(next.N, g); err != nil {
		return fmt.Errorf("growing the log: %w", err)
	}
	// A file that is there, at the new tree's edge, is what a crash left.
	tr := &copier{dir: t.dir, source: t.dir, useLocal: false}
	// Crash: the tree ends where it did. Its own tiles are untouched: those that the
	// new entries change are wider, and so have other names.
	if err := t.dir.storeGrowth(tr, g, now.N, entries); err != nil {
		return err
	}
	if err := tr.sync(); err != nil {
		return err
	}
	// Crash before: as above. After: the tree has the new entries, and narrower tiles
	// stay beside those that replace them, which costs their space alone.
	if err := t.dir.writeState(next); err != nil {
		return err
	}
	t.tree.Store(&next)
	return tr.dropNarrower()
}

// Root is the root of the first size entries. What is damaged on this disk is an
// error, and never another root.
func (t *Tree) Root(ctx context.Context, size int64) (tlog.Hash, error) {
	now := t.Now()
	if size < 0 || size > now.N {
		return tlog.Hash{}, fmt.Errorf("the root of %d entries: there are %d", size, now.N)
	}
	if size == now.N {
		return now.Hash, nil
	}
	return proven{ctx, t.cache, now}.root(size)
}

// Hashes reads the hashes of the tree, each proven to be in it.
func (t *Tree) Hashes(ctx context.Context) tlog.HashReader { return proven{ctx, t.cache, t.Now()} }

// ReadTile reads a tile or bundle, of torchwood.TileHeight, of the tree of the first size entries; if that
// has no such tile, the error is fs.ErrNotExist.
func (t *Tree) ReadTile(size int64, tile tlog.Tile) ([]byte, error) {
	of := proven{tree: tlog.Tree{N: min(size, t.Now().N)}}
	if tile.L >= 64/torchwood.TileHeight || of.tile(max(tile.L, 0), tile.N).W < tile.W {
		return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(tile), fs.ErrNotExist)
	}
	data, err := t.dir.readTile(tile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", filepath.Join(t.dir.path, torchwood.TilePath(tile)), errMissingTile)
	}
	return data, err
}

// errMissingTile is not fs.ErrNotExist: the tree has the tile, this disk has lost it.
var errMissingTile = errors.New("the file is gone from this disk")
