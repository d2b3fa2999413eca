package replica

import (
	"context"
	"errors"
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// maxGrowth bounds the blocks that are fetched singly; a copy that is further
// behind fetches whole bundles, several in parallel.
const maxGrowth = 1024

// entryReader is a source that can send the entries from a height on without
// the tiles around them.
type entryReader interface {
	ReadEntries(ctx context.Context, from int64, n int) ([][]byte, error)
}

// rotationReader is a source that can prove to which keys the ledger was
// handed over.
type rotationReader interface {
	ReadRotations(ctx context.Context) ([]ledger.Rotation, error)
}

// growth is a verified tree with new leaves at its end: all hashes of the
// larger tree. It implements tlog.HashReader.
type growth struct {
	old   proven
	base  int64       // the stored hash index of the first new leaf
	added []tlog.Hash // stored hashes from base on
}

// ReadHashes implements tlog.HashReader.
func (g *growth) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= g.base+int64(len(g.added)) {
			return nil, fmt.Errorf("the tree has no hash %d yet", x)
		}
		if x >= g.base {
			out[i] = g.added[x-g.base]
			continue
		}
		level, n := tlog.SplitStoredHashIndex(x)
		h, err := g.old.hash(level, n)
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

// grow adopts c from the new entries alone: with the tree that was verified
// before, they make the new root, or the source is not to be believed. Nothing
// is stored unless they do.
func (f *Follower) grow(ctx context.Context, source entryReader, head, c ledger.Checkpoint, offer *offered) error {
	entries, err := source.ReadEntries(ctx, head.Tree.N, int(c.Tree.N-head.Tree.N))
	if err != nil {
		return err
	}
	if int64(len(entries)) != c.Tree.N-head.Tree.N {
		return fmt.Errorf("asked for %d entries and got %d", c.Tree.N-head.Tree.N, len(entries))
	}
	g, err := grown(proven{ctx, f.cache, head.Tree}, entries)
	if err != nil {
		return err
	}
	root, err := tlog.TreeHash(c.Tree.N, g)
	if err != nil {
		return fmt.Errorf("growing the ledger: %w", err)
	}
	if root != c.Tree.Hash {
		return errors.New("the new entries do not lead to the new checkpoint")
	}
	tr := &copier{dir: f.dir, source: f.dir, useLocal: true}
	if err := f.dir.storeGrowth(tr, g, head.Tree.N, entries); err != nil {
		return err
	}
	return f.commit(ctx, tr, c, offer)
}

// grown is a tree with entries added at its end.
func grown(old proven, entries [][]byte) (*growth, error) {
	g := &growth{old: old, base: tlog.StoredHashIndex(0, old.tree.N)}
	for i, e := range entries {
		hashes, err := tlog.StoredHashes(old.tree.N+int64(i), e, g)
		if err != nil {
			return nil, fmt.Errorf("growing the ledger: %w", err)
		}
		g.added = append(g.added, hashes...)
	}
	return g, nil
}

// storeGrowth writes the tiles that the new entries change.
func (d dir) storeGrowth(tr *copier, g *growth, from int64, entries [][]byte) error {
	to := from + int64(len(entries))
	for _, t := range tlog.NewTiles(torchwood.TileHeight, from, to) {
		data, err := tlog.ReadTileData(t, g)
		if err != nil {
			return fmt.Errorf("growing the ledger: %w", err)
		}
		tr.SaveTiles([]tlog.Tile{t}, [][]byte{data})
	}
	for from < to {
		t := tlog.Tile{H: torchwood.TileHeight, L: -1, N: from / torchwood.TileWidth, W: torchwood.TileWidth}
		t.W = int(min(torchwood.TileWidth, to-t.N*torchwood.TileWidth))
		var bundle []byte
		if known := int(from % torchwood.TileWidth); known > 0 {
			narrower := t
			narrower.W = known
			var err error
			if bundle, err = d.readTile(narrower); err != nil {
				return fmt.Errorf("growing the ledger: %w", err)
			}
		}
		for end := t.N*torchwood.TileWidth + int64(t.W); from < end; from++ {
			var err error
			if bundle, err = torchwood.AppendTileEntry(bundle, entries[0]); err != nil {
				return fmt.Errorf("growing the ledger: %w", err)
			}
			entries = entries[1:]
		}
		tr.SaveTiles([]tlog.Tile{t}, [][]byte{bundle})
	}
	return nil
}
