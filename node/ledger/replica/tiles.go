package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"filippo.io/torchwood"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// maxTiles bounds the hash tiles in memory: 16 KiB each.
const maxTiles = 1024

// hashTile is a tile whose hashes were proven to be the log's.
type hashTile struct {
	leaves []byte // as in the file

	once  sync.Once
	inner subtrees
}

// hash is the n'th hash of a level inside of the tile (0: the leaves).
func (t *hashTile) hash(level int, n int64) (h tlog.Hash, ok bool) {
	if n < 0 || n >= int64(len(t.leaves)/tlog.HashSize>>level) {
		return h, false
	}
	if level == 0 {
		copy(h[:], t.leaves[n*tlog.HashSize:])
		return h, true
	}
	t.once.Do(func() { t.inner.build(t.leaves) })
	copy(h[:], t.inner.of(level)[n*tlog.HashSize:])
	return h, true
}

// subtrees are the hashes above a tile's leaves, level after level.
type subtrees [(torchwood.TileWidth - 1) * tlog.HashSize]byte

// of are the hashes of a level and of those above it.
func (s *subtrees) of(level int) []byte {
	return s[(torchwood.TileWidth-2*torchwood.TileWidth>>level)*tlog.HashSize:]
}

// build hashes the subtrees that are complete (RFC 6962, section 2.1).
func (s *subtrees) build(leaves []byte) {
	node := [1 + 2*tlog.HashSize]byte{1}
	below := leaves
	for level := 1; level <= torchwood.TileHeight; level++ {
		here := s.of(level)
		for n := range len(leaves) / tlog.HashSize >> level {
			copy(node[1:], below[2*n*tlog.HashSize:])
			h := sha256.Sum256(node[:])
			copy(here[n*tlog.HashSize:], h[:])
		}
		below = here
	}
}

// rootOf is the hash of a full tile.
func rootOf(leaves []byte) (h tlog.Hash) {
	var s subtrees
	s.build(leaves)
	copy(h[:], s.of(torchwood.TileHeight))
	return h
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
			c.tiles.Add(t, &hashTile{leaves: data[i]})
		}
	}
}

// proven reads the hashes of one tree from tiles that are proven to be its.
// It implements tlog.HashReader.
type proven struct {
	ctx   context.Context // of the one call it is made for: ReadHashes has no parameter for it
	cache *tileCache
	tree  tlog.Tree
}

// ReadHashes implements tlog.HashReader.
func (p proven) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
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
	h, ok := tile.hash(within, at)
	if !ok {
		return tlog.Hash{}, fmt.Errorf("the tree of %d blocks has no hash %d at level %d", p.tree.N, n, level)
	}
	return h, nil
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
	want, err := p.hash((t.L+1)*torchwood.TileHeight, t.N)
	if err != nil {
		return nil, err
	}
	tile := &hashTile{leaves: data[0]}
	if root, full := tile.hash(torchwood.TileHeight, 0); !full || root != want || len(data[0]) != torchwood.TileWidth*tlog.HashSize {
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
	first := tlog.StoredHashIndex(t.L*torchwood.TileHeight, t.N*torchwood.TileWidth)
	if _, err := torchwood.TileHashReaderWithContext(p.ctx, p.tree, p.cache).ReadHashes([]int64{first}); err != nil {
		if _, unread := errors.AsType[*fs.PathError](err); !unread && !errors.Is(err, ledger.ErrNoAnswer) && p.ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", &CorruptError{Path: torchwood.TilePath(t)}, err)
		}
		return nil, fmt.Errorf("reading the ledger's right edge: %w", err)
	}
	tile, ok := p.cache.tiles.Get(t)
	if !ok {
		return nil, errors.New("reading the ledger's right edge: a tile is missing in it")
	}
	return tile, nil
}

// local reads tiles of this disk. The hashes of entries come from the index.
type local struct {
	dir
	index *index.Index
}

// ReadTiles implements torchwood.TileReader.
func (r local) ReadTiles(_ context.Context, tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := r.readTile(t)
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (r local) readTile(t tlog.Tile) ([]byte, error) {
	if t.L == 0 && t.H == torchwood.TileHeight {
		if leaves, err := r.index.Leaves(t.N*torchwood.TileWidth, t.W); err == nil {
			return leaves, nil
		}
	}
	return r.dir.readTile(t)
}

// readTile reads a tile of the head's tree, and verifies it: what is beyond
// the head, or damaged, is not handed out.
func (l *Ledger) readTile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	head, _ := l.Head()
	p := proven{ctx, l.cache, head.Tree}
	if t.L >= 64/torchwood.TileHeight || t.H != torchwood.TileHeight || p.tile(max(t.L, 0), t.N).W < t.W {
		return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(t), fs.ErrNotExist)
	}
	if t.L < 0 {
		return l.readBundle(ctx, t)
	}
	if t.L == 0 {
		return l.leaves(ctx, t)
	}
	tile, err := p.read(p.tile(t.L, t.N))
	if err != nil {
		return nil, err
	}
	return tile.leaves[:t.W*tlog.HashSize], nil
}

// leaves are the hashes of the entries of a tile of the lowest level.
func (l *Ledger) leaves(ctx context.Context, t tlog.Tile) (leaves []byte, err error) {
	err = l.ask(ctx, func() (err error) {
		leaves, err = l.index.Leaves(t.N*torchwood.TileWidth, t.W)
		return err
	})
	return leaves, err
}

// readBundle reads a bundle of entries and compares them with their hashes.
func (l *Ledger) readBundle(ctx context.Context, t tlog.Tile) ([]byte, error) {
	hashes := t
	hashes.L = 0
	leaves, err := l.leaves(ctx, hashes)
	if err != nil {
		return nil, err
	}
	return l.dir.ReadBundle(ctx, t, nil, func(data []byte) error {
		if got, err := entryHashes(t, data); err != nil || !bytes.Equal(got, leaves) {
			return &CorruptError{Path: torchwood.TilePath(t)}
		}
		return nil
	})
}

// CorruptError names a file of the ledger that is not what the checkpoint
// commits to.
type CorruptError struct{ Path string }

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt: it is not what the checkpoint commits to", e.Path)
}

// storedHashes are all hashes of a tree (x/mod/sumdb/tlog). It implements
// tlog.HashReader.
type storedHashes struct {
	leaves int64
	hashes []tlog.Hash
}

// ReadHashes implements tlog.HashReader.
func (s *storedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(s.hashes)) {
			return nil, fmt.Errorf("the tree has no hash %d", x)
		}
		out[i] = s.hashes[x]
	}
	return out, nil
}

// add adds the next leaves.
func (s *storedHashes) add(leaves []byte) error {
	for ; len(leaves) > 0; leaves = leaves[tlog.HashSize:] {
		added, err := tlog.StoredHashesForRecordHash(s.leaves, tlog.Hash(leaves[:tlog.HashSize]), s)
		if err != nil {
			return fmt.Errorf("hashing the ledger: %w", err)
		}
		s.hashes = append(s.hashes, added...)
		s.leaves++
	}
	return nil
}

// entryHashes are the leaf hashes of a bundle's entries.
func entryHashes(t tlog.Tile, bundle []byte) (leaves []byte, err error) {
	for range t.W {
		var entry []byte
		if entry, bundle, err = torchwood.ReadTileEntry(bundle); err != nil {
			return nil, fmt.Errorf("it is too short: %w", err)
		}
		h := tlog.RecordHash(entry)
		leaves = append(leaves, h[:]...)
	}
	if len(bundle) > 0 {
		return nil, fmt.Errorf("%d bytes follow on its %d entries", len(bundle), t.W)
	}
	return leaves, nil
}
