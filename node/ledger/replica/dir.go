package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// dir is a ledger's folder in the layout of c2sp.org/tlog-tiles: checkpoint,
// tile/LEVEL/..., tile/entries/... It implements torchwood.TileReader.
type dir struct{ path string }

// ReadTiles reads tiles. A partial tile may also be cut from a wider version
// of it: a log only grows, so a wider tile begins with the narrower one.
func (d dir) ReadTiles(_ context.Context, tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := d.readTile(t)
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (d dir) readTile(t tlog.Tile) ([]byte, error) {
	data, err := d.read(t, nil)
	if t.L == 0 && errors.Is(err, fs.ErrNotExist) {
		return d.hashEntries(t)
	}
	return data, err
}

// read reads a tile into the space of buf, if that is enough.
func (d dir) read(t tlog.Tile, buf []byte) ([]byte, error) {
	f, stored, err := d.open(t)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(stored), err)
	}
	if info.Size() > ledger.MaxBundle {
		return nil, &CorruptError{Path: torchwood.TilePath(stored)}
	}
	data := slices.Grow(buf[:0], int(info.Size()))[:info.Size()]
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(stored), err)
	}
	if stored.W == t.W {
		return data, nil
	}
	return narrow(data, t)
}

// hashEntries makes a tile of the lowest level, which a mirror does not store,
// of its bundle.
func (d dir) hashEntries(t tlog.Tile) ([]byte, error) {
	bundle := t
	bundle.L = -1
	buf := bundleBuffers.Get().(*[]byte)
	defer bundleBuffers.Put(buf)
	data, err := d.read(bundle, *buf)
	if err != nil {
		return nil, err
	}
	*buf = data[:0]
	hashes, err := entryHashes(t, data)
	if err != nil {
		return nil, &CorruptError{Path: torchwood.TilePath(bundle)}
	}
	return hashes, nil
}

// ReadBundle implements bundleReader.
func (d dir) ReadBundle(_ context.Context, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error) {
	data, err := d.read(t, buf)
	if err != nil {
		return buf, err
	}
	return data, check(data)
}

// stored is the file that open finds for a tile; empty if none.
func (d dir) stored(t tlog.Tile) string {
	f, _, err := d.open(t)
	if err != nil {
		return ""
	}
	defer f.Close()
	return f.Name()
}

// opens is how often a tile is looked for that is being replaced by a wider one.
const opens = 4

// open opens a tile, or a wider version of it: the result says which.
func (d dir) open(t tlog.Tile) (f *os.File, stored tlog.Tile, err error) {
	stored, err = d.find(t, func(name string) (err error) {
		f, err = durable.Open(name)
		return err
	})
	return f, stored, err
}

// find opens a tile, or a wider version of it, by a function of the file's
// name: the result says which.
func (d dir) find(t tlog.Tile, open func(name string) error) (stored tlog.Tile, err error) {
	if t.H != torchwood.TileHeight {
		return t, fmt.Errorf("tile of height %d: only %d is in use", t.H, torchwood.TileHeight)
	}
	stored = t
	for range opens {
		err = open(filepath.Join(d.path, torchwood.TilePath(stored)))
		if err == nil || !errors.Is(err, fs.ErrNotExist) || t.W == torchwood.TileWidth {
			return stored, err
		}
		if stored, err = d.wider(t); err != nil {
			return t, err
		}
	}
	return t, fmt.Errorf("tile %s: %w", torchwood.TilePath(t), fs.ErrNotExist)
}

// readEntry reads the entry at an offset of a bundle.
func (d dir) readEntry(t tlog.Tile, offset int64) ([]byte, error) {
	buf := bundleBuffers.Get().(*[]byte)
	defer bundleBuffers.Put(buf)
	// Most entries are there after one read.
	for size := usualEntry; ; {
		*buf = slices.Grow((*buf)[:0], size)[:size]
		n := 0
		stored, err := d.find(t, func(name string) (err error) {
			n, err = durable.ReadAt(name, *buf, offset)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(stored), err)
		}
		if n < 2 {
			return nil, &CorruptError{Path: torchwood.TilePath(stored)}
		}
		length := 2 + int(binary.BigEndian.Uint16(*buf))
		if length <= n {
			return bytes.Clone((*buf)[2:length]), nil
		}
		if n < size {
			return nil, &CorruptError{Path: torchwood.TilePath(stored)}
		}
		size = length
	}
}

// usualEntry is the size of an entry, bytes, that few are longer than.
const usualEntry = 2 << 10

// wider finds the stored version of a partial tile that has at least its
// width: the full one, or the widest partial one.
func (d dir) wider(t tlog.Tile) (tlog.Tile, error) {
	full := t
	full.W = torchwood.TileWidth
	name := filepath.Join(d.path, torchwood.TilePath(full))
	if _, err := os.Stat(name); err == nil {
		return full, nil
	}
	entries, err := os.ReadDir(name + ".p")
	if err != nil {
		return t, err
	}
	best := 0
	for _, e := range entries {
		if w, err := strconv.Atoi(e.Name()); err == nil && w > best && w < torchwood.TileWidth {
			best = w
		}
	}
	if best < t.W {
		return t, fmt.Errorf("tile %s: %w", torchwood.TilePath(t), fs.ErrNotExist)
	}
	full.W = best
	return full, nil
}

// narrow cuts the first t.W hashes or entries from a wider version of t.
func narrow(data []byte, t tlog.Tile) ([]byte, error) {
	if t.L >= 0 {
		if len(data) < t.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %s: too short", torchwood.TilePath(t))
		}
		return data[:t.W*tlog.HashSize], nil
	}
	rest := data
	for range t.W {
		var err error
		if _, rest, err = torchwood.ReadTileEntry(rest); err != nil {
			return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(t), err)
		}
	}
	return data[:len(data)-len(rest)], nil
}

// SaveTiles implements torchwood.TileReader; what is read here is here.
func (d dir) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadEndpoint reads another file of the ledger, such as "checkpoint".
func (d dir) ReadEndpoint(_ context.Context, path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(d.path, filepath.FromSlash(path)))
}

// writeTile stores a verified tile. One that is there already is kept, unless
// it is not trusted. The result is its file, which has yet to be made durable,
// even one that was there: the process that wrote it may have died before.
func (d dir) writeTile(t tlog.Tile, data []byte, overwrite bool) (string, error) {
	name := filepath.Join(d.path, torchwood.TilePath(t))
	// Crash: there may be a part of the tile. No checkpoint refers to it yet, and
	// the next sync verifies what is there before it uses it.
	err := durable.Create(name, data)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
			err = durable.Create(name, data)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		if !overwrite {
			return name, nil
		}
		// Crash: the old file, the new one, or after a power cut an empty one.
		err = durable.Replace(name, data)
	}
	if err != nil {
		return "", fmt.Errorf("storing a tile: %w", err)
	}
	return name, nil
}

// dropNarrower removes the versions of a stored tile that are narrower.
func (d dir) dropNarrower(t tlog.Tile) error {
	full := t
	full.W = torchwood.TileWidth
	partial := filepath.Join(d.path, torchwood.TilePath(full)+".p")
	entries, err := os.ReadDir(partial)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("dropping a narrower tile: %w", err)
	}
	for _, e := range entries {
		if w, err := strconv.Atoi(e.Name()); err == nil && w < t.W {
			if err := os.Remove(filepath.Join(partial, e.Name())); err != nil {
				return fmt.Errorf("dropping a narrower tile: %w", err)
			}
		}
	}
	if t.W == torchwood.TileWidth {
		_ = os.Remove(partial) // empty, unless somebody put a file there
	}
	return nil
}
