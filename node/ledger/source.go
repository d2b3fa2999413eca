package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

const (
	sourceTimeout     = 20 * time.Second // for one tile
	sourceConcurrency = 8
	// maxBundle is a full entry bundle: 256 entries with their 16-bit lengths.
	maxBundle = torchwood.TileWidth * (2 + MaxEntrySize)
)

var (
	// errSource is in the errors of a source that does not answer.
	errSource = errors.New("no answer")
	// errSilent is in the errors of one that does not even refuse.
	errSilent = fmt.Errorf("%w in time", errSource)
	// errStorage is in the errors of this node's own disk.
	errStorage = errors.New("storing the ledger")
)

// rotationReader is a source that can prove to which keys the ledger was
// handed over.
type rotationReader interface {
	ReadRotations(ctx context.Context) ([]Rotation, error)
}

// Source reads somebody's copy of a ledger over HTTP (c2sp.org/tlog-tiles).
// What it returns is bounded in size and time, and not verified. It makes one
// attempt: whoever has several sources asks the next.
type Source struct {
	base    string
	client  *http.Client
	timeout time.Duration // of one request
}

// NewSource reads from the ledger at the URL base.
func NewSource(base string, client *http.Client) *Source {
	return &Source{base: base, client: client, timeout: sourceTimeout}
}

// String is the URL of the ledger.
func (s *Source) String() string { return s.base }

// ReadTiles implements torchwood.TileReader.
func (s *Source) ReadTiles(ctx context.Context, tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sourceConcurrency)
	for i, t := range tiles {
		group.Go(func() (err error) {
			limit := int64(t.W) * tlog.HashSize
			if t.L < 0 {
				limit = maxBundle
			}
			out[i], err = s.get(ctx, torchwood.TilePath(t), limit, nil)
			return err
		})
	}
	return out, group.Wait()
}

// readBundle implements bundleReader.
func (s *Source) readBundle(ctx context.Context, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error) {
	data, err := s.get(ctx, torchwood.TilePath(t), maxBundle, buf)
	if err != nil {
		return buf, err
	}
	return data, check(data)
}

// SaveTiles implements torchwood.TileReader; a source keeps nothing.
func (s *Source) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadEndpoint implements torchwood.TileReader.
func (s *Source) ReadEndpoint(ctx context.Context, path string) ([]byte, error) {
	return s.get(ctx, path, maxCheckpoint, nil)
}

// ReadEntries reads n entries from a height on, from a Pyrsia node.
func (s *Source) ReadEntries(ctx context.Context, from int64, n int) ([][]byte, error) {
	data, err := s.get(ctx, fmt.Sprintf("api/v1/entries/%d?n=%d", from, n), min(int64(n)*(2+MaxEntrySize), maxBundle), nil)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for len(data) > 0 {
		var entry []byte
		if entry, data, err = torchwood.ReadTileEntry(data); err != nil {
			return nil, fmt.Errorf("fetching entries from %d on: %w", from, err)
		}
		out = append(out, entry)
	}
	return out, nil
}

// ReadRotations reads the proofs of key rotations, from a Pyrsia node.
func (s *Source) ReadRotations(ctx context.Context) (out []Rotation, err error) {
	data, err := s.get(ctx, "api/v1/rotations", maxRotationsJSON, nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("fetching the key rotations: %w", err)
	}
	if len(out) > maxRotations {
		return nil, fmt.Errorf("fetching the key rotations: %d, at most %d", len(out), maxRotations)
	}
	return out, nil
}

// get reads the answer for a path into the space of buf, if that is enough.
func (s *Source) get(ctx context.Context, path string, limit int64, buf []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", path, err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w: %w", path, errSilent, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching %s: %w: %s", path, errSource, resp.Status)
	}
	// One byte more than expected, to see the end.
	data := slices.Grow(buf[:0], int(min(max(resp.ContentLength, 0), limit))+1)
	for {
		n, err := resp.Body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, fmt.Errorf("fetching %s: more than %d bytes", path, limit)
		}
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w: %w", path, errSilent, err)
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
	}
}
