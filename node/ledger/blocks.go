package ledger

import (
	"bytes"
	"context"
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

const (
	bundleWorkers = 4  // bundles that are read and checked at once
	bundlesAhead  = 16 // bundles that wait for their turn to be indexed
)

// indexBlocks reads from tr the blocks of the tree that are not indexed yet,
// checks each one against the tree, and indexes it. Several bundles are
// checked at once and indexed in order.
func (l *Ledger) indexBlocks(ctx context.Context, tr torchwood.TileReader, tree tlog.Tree) error {
	from := l.index.blocks()
	if from == tree.N {
		return nil
	}
	group, gctx := errgroup.WithContext(ctx)
	p := proven{gctx, l.cache.over(tr), tree}
	turns := make(chan chan []indexed, bundlesAhead)
	group.Go(func() error {
		defer close(turns)
		workers, wctx := errgroup.WithContext(gctx)
		workers.SetLimit(bundleWorkers)
		for n := from / torchwood.TileWidth; n*torchwood.TileWidth < tree.N; n++ {
			turn := make(chan []indexed, 1)
			select {
			case turns <- turn:
			case <-wctx.Done():
				return workers.Wait()
			}
			workers.Go(func() error {
				defer close(turn)
				blocks, err := l.checkBundle(p, n)
				if err == nil {
					turn <- blocks
				}
				return err
			})
		}
		return workers.Wait()
	})
	group.Go(func() error {
		skip := from % torchwood.TileWidth // the first bundle's blocks that are indexed
		for turn := range turns {
			blocks, ok := <-turn
			if !ok {
				return nil // its worker says why
			}
			for _, b := range blocks[skip:] {
				if err := l.index.add(b, p.root); err != nil {
					return err
				}
			}
			skip = 0
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("reading the ledger's blocks from %d on: %w", from, err)
	}
	return ctx.Err()
}

// checkBundle reads a bundle of entries, checks each against the tree, and
// finds what they are indexed by.
func (l *Ledger) checkBundle(p proven, n int64) ([]indexed, error) {
	hashes := p.tile(0, n)
	bundle := hashes
	bundle.L = -1
	data, err := p.cache.ReadTiles(p.ctx, []tlog.Tile{bundle})
	if err != nil {
		return nil, err
	}
	blocks := make([]indexed, 0, bundle.W)
	leaves := make([]byte, 0, bundle.W*tlog.HashSize)
	rest := data[0]
	for range bundle.W {
		var entry []byte
		if entry, rest, err = torchwood.ReadTileEntry(rest); err != nil {
			return nil, fmt.Errorf("%s: %w", torchwood.TilePath(bundle), err)
		}
		leaf := tlog.RecordHash(entry)
		leaves = append(leaves, leaf[:]...)
		height := n*torchwood.TileWidth + int64(len(blocks))
		b, err := scanEntry(entry)
		if err != nil {
			// Proven to be on the ledger, and kept; but it says nothing to us.
			l.log.Warn("block is not indexed", "block", height, "error", err)
		}
		blocks = append(blocks, b)
	}
	if len(rest) != 0 {
		return nil, &CorruptError{Path: torchwood.TilePath(bundle)}
	}
	if err := p.checkLeaves(hashes, leaves); err != nil {
		return nil, err
	}
	p.cache.TileReader.SaveTiles([]tlog.Tile{bundle, hashes}, [][]byte{data[0], leaves})
	return blocks, nil
}

// checkLeaves compares the hashes of a bundle's entries with the tree. Those of
// a full bundle need no tile of their own: their root is in the tile above.
func (p proven) checkLeaves(t tlog.Tile, leaves []byte) error {
	if t.W == torchwood.TileWidth {
		want, err := p.hash(torchwood.TileHeight, t.N)
		if err != nil {
			return err
		}
		if rootOf(leaves) != want {
			return &CorruptError{Path: torchwood.TilePath(tlog.Tile{H: t.H, L: -1, N: t.N, W: t.W})}
		}
		return nil
	}
	tile, err := p.read(t)
	if err != nil {
		return err
	}
	if !bytes.Equal(leaves, tile.leaves) {
		return &CorruptError{Path: torchwood.TilePath(tlog.Tile{H: t.H, L: -1, N: t.N, W: t.W})}
	}
	return nil
}
