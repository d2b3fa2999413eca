package replica

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

const (
	bundleWorkers = 8  // bundles that are read and checked in parallel
	bundlesAhead  = 64 // bundles that wait for their turn to be indexed
)

// bundleReader is a torchwood.TileReader that reads entry bundles into a
// buffer, which is faster and makes no garbage.
type bundleReader interface {
	// ReadBundle reads a bundle, into the space of buf if it is enough, and
	// has check look at it. What check refuses is not returned.
	ReadBundle(ctx context.Context, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error)
}

func readBundle(ctx context.Context, tr torchwood.TileReader, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error) {
	if r, ok := tr.(bundleReader); ok {
		return r.ReadBundle(ctx, t, buf, check)
	}
	data, err := tr.ReadTiles(ctx, []tlog.Tile{t})
	if err != nil {
		return buf, err
	}
	return data[0], check(data[0])
}

// indexBlocks reads from tr the blocks of the tree that are not indexed yet,
// checks each one against the tree, and indexes it. Several bundles are checked
// in parallel and indexed in order.
func (l *Ledger) indexBlocks(ctx context.Context, tr torchwood.TileReader, tree tlog.Tree) error {
	from := l.index.Blocks()
	if from == tree.N {
		return nil
	}
	group, gctx := errgroup.WithContext(ctx)
	p := proven{gctx, l.cache.over(tr), tree}
	turns := make(chan chan *index.Batch, bundlesAhead)
	group.Go(func() error {
		defer close(turns)
		workers, wctx := errgroup.WithContext(gctx)
		workers.SetLimit(bundleWorkers)
		for height := from; height < tree.N; height = (height/torchwood.TileWidth + 1) * torchwood.TileWidth {
			turn := make(chan *index.Batch, 1)
			select {
			case turns <- turn:
			case <-wctx.Done():
				return workers.Wait()
			}
			workers.Go(func() error {
				defer close(turn)
				b, err := l.checkBundle(p, height)
				if err == nil {
					turn <- b
				}
				return err
			})
		}
		return workers.Wait()
	})
	group.Go(func() error {
		for turn := range turns {
			b, ok := <-turn
			if !ok {
				return nil // its worker says why
			}
			if err := l.index.Add(b, p.root); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("reading the ledger's blocks from %d on: %w", from, err)
	}
	return ctx.Err()
}

// bundleBuffers hold what is read of a bundle.
var bundleBuffers = sync.Pool{New: func() any { return new([]byte) }}

// checkBundle reads the bundle of entries that the block at a height is in,
// checks each against the tree, and finds what the blocks from that one on are
// indexed by.
func (l *Ledger) checkBundle(p proven, height int64) (*index.Batch, error) {
	t := p.tile(0, height/torchwood.TileWidth)
	bundle := t
	bundle.L = -1
	b := index.NewBatch()
	buf := bundleBuffers.Get().(*[]byte)
	defer bundleBuffers.Put(buf)
	data, err := readBundle(p.ctx, p.cache.TileReader, bundle, *buf, func(data []byte) error {
		if !b.Scan(data, t.W, int(height%torchwood.TileWidth)) {
			return &CorruptError{Path: torchwood.TilePath(bundle)}
		}
		return p.checkLeaves(t, b.Bundle)
	})
	if cap(data) > cap(*buf) {
		*buf = data
	}
	if err != nil {
		return nil, err
	}
	for _, u := range b.Unread {
		// Proven to be on the ledger, and kept; but it says nothing to us.
		l.log.Warn("block is not indexed", "block", height+int64(u.Above), "error", u.Err)
	}
	return b, nil
}

// checkLeaves compares the hashes of a bundle's entries with the tree. Those of
// a full bundle need no tile of their own: their root is in the tile above.
func (p proven) checkLeaves(t tlog.Tile, leaves []byte) error {
	bundle := t
	bundle.L = -1
	if t.W == torchwood.TileWidth {
		want, err := p.hash(torchwood.TileHeight, t.N)
		if err == nil && rootOf(leaves) != want {
			err = &CorruptError{Path: torchwood.TilePath(bundle)}
		}
		return err
	}
	tile, err := p.read(t)
	if err == nil && !bytes.Equal(leaves, tile.leaves) {
		err = &CorruptError{Path: torchwood.TilePath(bundle)}
	}
	return err
}
