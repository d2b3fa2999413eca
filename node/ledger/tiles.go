package ledger

import (
	"context"
	"errors"
	"fmt"

	"filippo.io/torchwood"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/tlog"
)

// maxTiles bounds the hash tiles in memory: 16 KiB each.
const maxTiles = 1024

// hashTile is a tile whose hashes were proven to be the log's, with all
// hashes inside of it: levels[0] are those of the tile, levels[i] those i
// levels higher, as far as their subtrees are complete.
type hashTile struct {
	levels [torchwood.TileHeight + 1][]tlog.Hash
}

func newHashTile(data []byte) *hashTile {
	t := new(hashTile)
	t.levels[0] = make([]tlog.Hash, len(data)/tlog.HashSize)
	for i := range t.levels[0] {
		copy(t.levels[0][i][:], data[i*tlog.HashSize:])
	}
	for l := 1; l < len(t.levels); l++ {
		below := t.levels[l-1]
		t.levels[l] = make([]tlog.Hash, len(below)/2)
		for i := range t.levels[l] {
			t.levels[l][i] = tlog.NodeHash(below[2*i], below[2*i+1])
		}
	}
	return t
}

// tileCache keeps hash tiles that were proven once, and reads the others. A
// proven tile stays proven: a log only grows.
type tileCache struct {
	torchwood.TileReader
	tiles *lru.Cache[tlog.Tile, *hashTile]
}

func newTileCache(r torchwood.TileReader) (*tileCache, error) {
	tiles, err := lru.New[tlog.Tile, *hashTile](maxTiles)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	return &tileCache{TileReader: r, tiles: tiles}, nil
}

// over reads the tiles that are not in this cache from elsewhere.
func (c *tileCache) over(r torchwood.TileReader) *tileCache {
	return &tileCache{TileReader: r, tiles: c.tiles}
}

// SaveTiles keeps tiles that were proven.
func (c *tileCache) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	c.TileReader.SaveTiles(tiles, data)
	for i, t := range tiles {
		if t.L >= 0 {
			c.tiles.Add(t, newHashTile(data[i]))
		}
	}
}

// proven reads the hashes of one tree from tiles that are proven to be its.
// It implements tlog.HashReader.
type proven struct {
	ctx   context.Context
	cache *tileCache
	tree  tlog.Tree
}

// ReadHashes implements tlog.HashReader.
func (p proven) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := p.hash(level, n)
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

// hash is the n'th hash of a level (0: the leaves).
func (p proven) hash(level int, n int64) (tlog.Hash, error) {
	within := level % torchwood.TileHeight
	t := p.tile(level/torchwood.TileHeight, n<<within/torchwood.TileWidth)
	at := n - t.N*torchwood.TileWidth>>within
	tile, err := p.read(t)
	if err != nil {
		return tlog.Hash{}, err
	}
	if at < 0 || at >= int64(len(tile.levels[within])) {
		return tlog.Hash{}, fmt.Errorf("the tree of %d blocks has no hash %d at level %d", p.tree.N, n, level)
	}
	return tile.levels[within][at], nil
}

// tile is the n'th tile of a level as it is in this tree.
func (p proven) tile(level int, n int64) tlog.Tile {
	width := p.tree.N>>(level*torchwood.TileHeight) - n*torchwood.TileWidth
	return tlog.Tile{H: torchwood.TileHeight, L: level, N: n, W: int(min(max(width, 0), torchwood.TileWidth))}
}

func (p proven) read(t tlog.Tile) (*hashTile, error) {
	if tile, ok := p.cache.tiles.Get(t); ok {
		return tile, nil
	}
	if t.W == 0 {
		return nil, fmt.Errorf("the tree of %d blocks has no tile %s", p.tree.N, t.Path())
	}
	if t.W < torchwood.TileWidth {
		return p.prove(t)
	}
	data, err := p.cache.ReadTiles(p.ctx, []tlog.Tile{t})
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	tile := newHashTile(data[0])
	want, err := p.hash((t.L+1)*torchwood.TileHeight, t.N)
	if err != nil {
		return nil, err
	}
	if len(tile.levels[torchwood.TileHeight]) != 1 || tile.levels[torchwood.TileHeight][0] != want {
		return nil, &CorruptError{Path: torchwood.TilePath(t)}
	}
	p.cache.TileReader.SaveTiles([]tlog.Tile{t}, data)
	p.cache.tiles.Add(t, tile)
	return tile, nil
}

// root is the root of the tree's first size blocks.
func (p proven) root(size int64) (tlog.Hash, error) { return tlog.TreeHash(size, p) }

// prove reads a tile at the tree's right edge, which only the whole edge
// together with the root proves.
func (p proven) prove(t tlog.Tile) (*hashTile, error) {
	index := tlog.StoredHashIndex(t.L*torchwood.TileHeight, t.N*torchwood.TileWidth)
	if _, err := torchwood.TileHashReaderWithContext(p.ctx, p.tree, p.cache).ReadHashes([]int64{index}); err != nil {
		return nil, fmt.Errorf("reading the ledger's right edge: %w", err)
	}
	tile, ok := p.cache.tiles.Get(t)
	if !ok {
		return nil, errors.New("reading the ledger's right edge: a tile is missing in it")
	}
	return tile, nil
}

// CorruptError names a file of the ledger that is not what the checkpoint
// commits to.
type CorruptError struct{ Path string }

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt: it is not what the checkpoint commits to", e.Path)
}
