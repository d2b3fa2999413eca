package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A Client is a torchwood.TileReader: it reads the node's copy of the ledger
// (c2sp.org/tlog-tiles), or any other log in that form.
var _ torchwood.TileReader = (*Client)(nil)

const (
	tilesInParallel = 8
	// What an entry has on average in the answers of ReadEntries, at most; a block
	// of an image with seven platforms has 1,850 bytes. Larger ones come in bundles,
	// from few sources in parallel.
	maxAverageEntry = 4 << 10
)

// decoding bounds the answers of peers that are decoded in parallel.
var decoding = make(chan struct{}, 4)

// ReadTiles implements torchwood.TileReader.
func (c *Client) ReadTiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tilesInParallel)
	for i, t := range tiles {
		group.Go(func() (err error) {
			if t.L < 0 {
				out[i], err = c.fetch(ctx, torchwood.TilePath(t), compressed, ledger.MaxBundle, nil)
			} else {
				out[i], err = c.fetch(ctx, torchwood.TilePath(t), uncompressed, int64(t.W)*tlog.HashSize, nil)
			}
			return err
		})
	}
	return out, group.Wait()
}

// ReadBundle reads a bundle of entries into the space of buf, if it is enough, and
// has it checked.
func (c *Client) ReadBundle(ctx context.Context, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error) {
	data, err := c.fetch(ctx, torchwood.TilePath(t), compressed, ledger.MaxBundle, buf)
	if err != nil {
		return buf, err
	}
	return data, check(data)
}

// SaveTiles implements torchwood.TileReader; a Client keeps nothing.
func (c *Client) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadEndpoint implements torchwood.TileReader.
func (c *Client) ReadEndpoint(ctx context.Context, path string) ([]byte, error) {
	return c.fetch(ctx, path, uncompressed, ledger.MaxCheckpoint, nil)
}

// ReadEntries reads at most n entries from a height on, from a Pyrsia node.
func (c *Client) ReadEntries(ctx context.Context, from int64, n int) (out [][]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, tileTimeout)
	defer cancel()
	path := fmt.Sprintf("api/v1/entries/%d?n=%d", from, n)
	limit := min(2+ledger.MaxEntrySize+int64(n)*maxAverageEntry, ledger.MaxBundle)
	err = c.ask(ctx, path, compressed, limit, func(body io.Reader, _ int64) error {
		in := bufio.NewReader(body)
		for {
			entry, err := readEntry(in)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(out) == n {
				return fmt.Errorf("more than the %d entries that were asked for", n)
			}
			out = append(out, entry)
		}
	})
	if err != nil {
		return out, fmt.Errorf("fetching %s: %w", path, err)
	}
	return out, nil
}

// readEntry reads an entry with its length before it (c2sp.org/tlog-tiles); the
// error is io.EOF if there is none.
func readEntry(in *bufio.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	entry := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(in, entry); errors.Is(err, io.EOF) && len(entry) > 0 {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil && len(entry) > 0 {
		return nil, err
	}
	return entry, nil
}

// ReadRotations reads the proofs of key rotations, from a Pyrsia node.
func (c *Client) ReadRotations(ctx context.Context) ([]ledger.Rotation, error) {
	data, err := c.fetch(ctx, "api/v1/rotations", uncompressed, ledger.MaxRotationsJSON, nil)
	if err != nil {
		return nil, err
	}
	decoding <- struct{}{}
	defer func() { <-decoding }()
	out, err := ledger.DecodeRotations(data)
	if err != nil {
		return nil, fmt.Errorf("fetching the key rotations: %w", err)
	}
	return out, nil
}

// fetch reads a part of the ledger.
func (c *Client) fetch(ctx context.Context, path string, as encoding, limit int64, buf []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tileTimeout)
	defer cancel()
	data, err := c.get(ctx, path, as, limit, buf)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", path, err)
	}
	return data, nil
}
