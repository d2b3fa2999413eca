package ledger

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
)

const (
	sourceTimeout     = 20 * time.Second // for one tile
	sourceConcurrency = 8
	// maxBundle is a full entry bundle: 256 entries with their 16-bit lengths.
	maxBundle = torchwood.TileWidth * (2 + MaxEntrySize)
	// What an entry has on average in the answers of ReadEntries, at most; a block
	// of an image with seven platforms has 1,850 bytes. Larger ones come in bundles,
	// from few sources in parallel.
	maxAverageEntry = 4 << 10
	// firstBuffer is what is taken for an answer before any of it has come.
	firstBuffer = 64 << 10
)

// decoding bounds the answers of peers that are decoded in parallel.
var decoding = make(chan struct{}, 4)

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

// Source reads another node's copy of a ledger over HTTP (c2sp.org/tlog-tiles).
// What it returns is bounded in size and time, and not verified. It makes one
// attempt; a caller with several sources asks the next.
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
			if t.L < 0 {
				out[i], err = s.get(ctx, torchwood.TilePath(t), compressed, maxBundle, nil)
			} else {
				out[i], err = s.get(ctx, torchwood.TilePath(t), uncompressed, int64(t.W)*tlog.HashSize, nil)
			}
			return err
		})
	}
	return out, group.Wait()
}

// readBundle implements bundleReader.
func (s *Source) readBundle(ctx context.Context, t tlog.Tile, buf []byte, check func([]byte) error) ([]byte, error) {
	data, err := s.get(ctx, torchwood.TilePath(t), compressed, maxBundle, buf)
	if err != nil {
		return buf, err
	}
	return data, check(data)
}

// SaveTiles implements torchwood.TileReader; a source keeps nothing.
func (s *Source) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadEndpoint implements torchwood.TileReader.
func (s *Source) ReadEndpoint(ctx context.Context, path string) ([]byte, error) {
	return s.get(ctx, path, uncompressed, maxCheckpoint, nil)
}

// ReadEntries reads at most n entries from a height on, from a Pyrsia node.
func (s *Source) ReadEntries(ctx context.Context, from int64, n int) (out [][]byte, err error) {
	path := fmt.Sprintf("api/v1/entries/%d?n=%d", from, n)
	limit := min(2+MaxEntrySize+int64(n)*maxAverageEntry, maxBundle)
	err = s.ask(ctx, path, compressed, limit, func(body io.Reader, _ int64) error {
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
	return out, err
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
func (s *Source) ReadRotations(ctx context.Context) ([]Rotation, error) {
	data, err := s.get(ctx, "api/v1/rotations", uncompressed, maxRotationsJSON, nil)
	if err != nil {
		return nil, err
	}
	decoding <- struct{}{}
	defer func() { <-decoding }()
	out, err := decodeRotations(data)
	if err != nil {
		return nil, fmt.Errorf("fetching the key rotations: %w", err)
	}
	return out, nil
}

// decodeRotations reads a list of rotations that others have made. Those that the
// key which hands over has not signed are left out.
func decodeRotations(data []byte) (out []Rotation, err error) {
	if err := bounded.Unmarshal(data, maxRotations*rotationValues+2, &out); err != nil {
		return nil, err
	}
	if len(out) > maxRotations {
		return nil, fmt.Errorf("%d, at most %d", len(out), maxRotations)
	}
	own := out[:0]
	for _, r := range out {
		if r, err := ownRotation(r); err == nil {
			own = append(own, r)
		}
	}
	return own, nil
}

// encoding is how a source may send an answer. A request for plain bytes accepts
// no others: a compressed kilobyte can be a megabyte.
type encoding string

const (
	uncompressed encoding = "identity"
	compressed   encoding = "gzip"
)

// get reads the answer for a path into the space of buf, if that is enough.
func (s *Source) get(ctx context.Context, path string, as encoding, limit int64, buf []byte) (data []byte, err error) {
	err = s.ask(ctx, path, as, limit, func(body io.Reader, length int64) error {
		// One byte more than expected, to see the end.
		data = slices.Grow(buf[:0], int(min(max(length, 0), limit, firstBuffer))+1)
		for {
			n, err := body.Read(data[len(data):cap(data)])
			data = data[:len(data)+n]
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(data) == cap(data) {
				data = slices.Grow(data, len(data))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// ask has read take the answer for a path, of at most limit bytes. length is what
// the source says, and negative if it does not.
func (s *Source) ask(ctx context.Context, path string, as encoding, limit int64, read func(body io.Reader, length int64) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/"+path, nil)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", path, err)
	}
	req.Header.Set("Accept-Encoding", string(as))
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("fetching %s: %w: %w", path, errSilent, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetching %s: %w: %s", path, errSource, resp.Status)
	}
	body, length := io.Reader(&limited{resp.Body, limit, limit}), resp.ContentLength
	switch got := resp.Header.Get("Content-Encoding"); {
	case got == string(compressed) && as == compressed:
		// Of nothing much can be made too: empty blocks have no end.
		zr, err := gzip.NewReader(&limited{resp.Body, limit + limit/64 + 1<<10, limit})
		if err != nil {
			return fmt.Errorf("fetching %s: %w: %w", path, errSource, err)
		}
		body, length = &limited{zr, limit, limit}, -1
	case got != "" && got != string(uncompressed):
		return fmt.Errorf("fetching %s: %w: it came in the encoding %.20q, for which nobody asked", path, errSource, got)
	}
	if err := read(body, length); err != nil {
		return fmt.Errorf("fetching %s: %w", path, err)
	}
	return nil
}

// limited is an error once there is more than limit bytes. Its other errors are
// those of a source that does not go on.
type limited struct {
	r           io.Reader
	left, limit int64
}

var errTooLarge = errors.New("more bytes than")

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("%w %d", errTooLarge, l.limit)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errTooLarge) {
		err = fmt.Errorf("%w: %w", errSilent, err)
	}
	return n, err
}
