package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

	mu      sync.Mutex // guards what follows
	err     error      // of storing
	written []string   // files that are not durable yet
}

func (c *copier) ReadTiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	var missing []tlog.Tile
	for i, t := range tiles {
		if c.useLocal {
			data, err := c.dir.readTile(t)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			out[i] = data
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

func (c *copier) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		name, err := c.dir.writeTile(t, data[i], !c.useLocal)
		c.mu.Lock()
		c.err = errors.Join(c.err, err)
		if name != "" {
			c.written = append(c.written, name)
		}
		c.mu.Unlock()
	}
}

// sync makes durable what was stored.
func (c *copier) sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.err
	switch {
	case err != nil:
	case len(c.written) > manyFiles:
		err = durable.SyncAll(c.dir.path)
	default:
		for _, name := range c.written {
			err = errors.Join(err, durable.SyncFile(name))
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

func (c *copier) ReadEndpoint(ctx context.Context, path string) ([]byte, error) {
	return c.source.ReadEndpoint(ctx, path)
}
