package replica

import (
	"bytes"
	"context"
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// tiles checks each bundle and each hash tile. All hashes follow from the
// bundles; when those do not lead to the root, it finds which are at fault.
func (c *Check) tiles(ctx context.Context) (whole bool, err error) {
	all := new(storedHashes)
	for n := range c.bundles() {
		leaves, err := c.readLeaves(n)
		if err == nil {
			err = all.add(leaves)
		}
		if err != nil || ctx.Err() != nil {
			return c.blame(ctx)
		}
	}
	root, err := tlog.TreeHash(c.tree.N, all)
	if err != nil {
		return false, fmt.Errorf("checking the ledger: %w", err)
	}
	if root != c.tree.Hash {
		return c.blame(ctx)
	}
	return true, c.compare(all)
}

// bundles is the number of entry bundles.
func (c *Check) bundles() int64 { return (c.tree.N + torchwood.TileWidth - 1) / torchwood.TileWidth }

// bundle is the n'th entry bundle, and hashes the tile of its entries' hashes.
func (c *Check) bundle(n int64) (bundle, hashes tlog.Tile) {
	hashes = proven{tree: c.tree}.tile(0, n)
	bundle = hashes
	bundle.L = -1
	return bundle, hashes
}

func (c *Check) readLeaves(n int64) ([]byte, error) {
	t, _ := c.bundle(n)
	data, err := c.dir.readTile(t)
	if err != nil {
		return nil, err
	}
	return entryHashes(t, data)
}

// blame finds the bundles that are not under the root, by the hash tiles of
// this disk or of the sources, and fetches them again.
func (c *Check) blame(ctx context.Context) (whole bool, err error) {
	var readers []proven
	for _, r := range append([]torchwood.TileReader{c.dir}, c.Sources...) {
		cache, err := newTileCache(discarding{r})
		if err != nil {
			return false, err
		}
		readers = append(readers, proven{ctx, cache, c.tree})
	}
	proves := func(hashes tlog.Tile, leaves []byte) (err error) {
		for _, p := range readers {
			if err = p.checkLeaves(hashes, leaves); err == nil {
				return nil
			}
		}
		return err
	}
	before := len(c.problems)
	whole = true
	for n := range c.bundles() {
		t, hashes := c.bundle(n)
		leaves, err := c.readLeaves(n)
		if err == nil {
			err = proves(hashes, leaves)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		data := c.fetch(ctx, t, func(leaves []byte) error { return proves(hashes, leaves) })
		if data == nil {
			c.found(torchwood.TilePath(t), err.Error(), nil, adviceSource)
			whole = false
			continue
		}
		c.found(torchwood.TilePath(t), err.Error(), func() error {
			_, err := c.dir.writeTile(t, data, true)
			return err
		}, "")
		whole = whole && c.Repair
	}
	if !whole {
		return false, nil
	}
	if len(c.problems) == before {
		return false, fmt.Errorf("checking the ledger: each bundle is under the root, and all together are not: %w", &CorruptError{Path: checkpointFile})
	}
	return c.tiles(ctx) // of what is there now
}

// fetch asks the sources for a bundle; nil if none has one that is proven.
func (c *Check) fetch(ctx context.Context, t tlog.Tile, proves func(leaves []byte) error) []byte {
	for _, s := range c.Sources {
		data, err := s.ReadTiles(ctx, []tlog.Tile{t})
		if err != nil {
			continue
		}
		if leaves, err := entryHashes(t, data[0]); err == nil && proves(leaves) == nil {
			return data[0]
		}
	}
	return nil
}

// discarding reads tiles and keeps none.
type discarding struct{ torchwood.TileReader }

// SaveTiles implements torchwood.TileReader.
func (discarding) SaveTiles([]tlog.Tile, [][]byte) {}

// compare compares the hash tiles on the disk with those that follow from the
// bundles.
func (c *Check) compare(all *storedHashes) error {
	for _, t := range tlog.NewTiles(torchwood.TileHeight, 0, c.tree.N) {
		want, err := tlog.ReadTileData(t, all)
		if err != nil {
			return fmt.Errorf("checking the ledger: %w", err)
		}
		data, err := c.dir.readTile(t)
		if err == nil && bytes.Equal(data, want) {
			continue
		}
		message := "it is not what the checkpoint commits to"
		if err != nil {
			message = err.Error()
		}
		c.found(torchwood.TilePath(t), message, func() error {
			_, err := c.dir.writeTile(t, want, true)
			return err
		}, "")
	}
	if c.Repair && len(c.problems) > 0 {
		return durable.SyncAll(c.Path)
	}
	return nil
}
