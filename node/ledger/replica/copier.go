package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// manyFiles is from how many files on it is cheaper to make the whole file
// system durable than one after the other.
const manyFiles = 64

// copier reads tiles from this disk, else from a source, and stores each one
// as soon as it is proven to be under the checkpoint that is being adopted.
type copier struct {
	dir      dir
	source   torchwood.TileReader
	useLocal bool

	mu      sync.Mutex  // guards what follows
	err     error       // of storing
	written []string    // files that are not durable yet
	wider   []tlog.Tile // that may have narrower versions on this disk
}

func (c *copier) ReadTiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	var missing []tlog.Tile
	for i, t := range tiles {
		if c.useLocal {
			// One that cannot be read is as good as none.
			out[i], _ = c.dir.readTile(t)
		}
		if out[i] == nil {
			missing = append(missing, t)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	fetched, err := c.source.ReadTiles(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if out[i] == nil {
			out[i], fetched = fetched[0], fetched[1:]
		}
	}
	return out, nil
}

// ReadBundle implements bundleReader. A bundle of this disk that is not what
// it should be is fetched again, and replaced.
func (c *copier) ReadBundle(ctx context.Context, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error) {
	data, err := c.dir.read(t, buf)
	if err == nil {
		if err = check(data); err == nil {
			// The process that wrote it may have died before it was durable.
			return data, c.store(c.dir.stored(t), nil)
		}
		if bad, ok := errors.AsType[*CorruptError](err); !ok || bad.Path != torchwood.TilePath(t) {
			return data, err // it was not the bundle
		}
	}
	bad := !errors.Is(err, fs.ErrNotExist)
	if data, err = readBundle(ctx, c.source, t, buf, check); err != nil {
		return data, err
	}
	return data, c.write(t, data, bad)
}

// SaveTiles implements torchwood.TileReader. The hashes of entries are not
// stored: they are made of the entries when somebody asks for them.
func (c *copier) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		if t.L != 0 {
			_ = c.write(t, data[i], !c.useLocal) // sync says it
		}
	}
}

func (c *copier) write(t tlog.Tile, data []byte, overwrite bool) error {
	name, err := c.dir.writeTile(t, data, overwrite)
	c.mu.Lock()
	c.wider = append(c.wider, t)
	c.mu.Unlock()
	return c.store(name, err)
}

// dropNarrower removes the tiles that wider ones have replaced. Until the
// checkpoint of the wider ones is stored, the narrower are the ledger.
func (c *copier) dropNarrower() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.wider {
		// Crash: the narrower tile stays until a wider one is written again.
		if err := c.dir.dropNarrower(t); err != nil {
			return fmt.Errorf("%w: %w", errStorage, err)
		}
	}
	return nil
}

// store notes a file that is to be made durable, or why it could not be stored.
func (c *copier) store(name string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
	if name != "" {
		c.written = append(c.written, name)
	}
	return err
}

// sync makes durable what was stored. What fails to sync is removed, because
// its content is in doubt from then on, even if a second attempt succeeds.
func (c *copier) sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("%w: %w", errStorage, c.err)
	}
	var err error
	if len(c.written) > manyFiles {
		err = durable.SyncAll(c.dir.path)
	} else {
		err = durable.SyncFiles(c.written...)
	}
	if err == nil {
		return nil
	}
	for _, name := range c.written {
		if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return fmt.Errorf("%w: %w", errStorage, err)
}

func (c *copier) ReadEndpoint(ctx context.Context, path string) ([]byte, error) {
	return c.source.ReadEndpoint(ctx, path)
}
