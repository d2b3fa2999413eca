// Package transfer brings blobs from peers. A blob comes in pieces from
// several peers at once; each piece is checked before it is stored or handed
// on, and the last one is handed on only when the whole blob is verified.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// ErrUnavailable is returned when no peer that could be asked has the content.
var ErrUnavailable = errors.New("no peer has it")

const (
	// FirstPiece bounds how long Open waits for the first bytes: well under
	// the time after which clients give a mirror up.
	FirstPiece   = 15 * time.Second
	findTimeout  = 5 * time.Second
	smallTimeout = 4 * time.Second // of one peer, so that a slow one leaves time for others
	pieceTimeout = 30 * time.Second
	blobTimeout  = 30 * time.Minute
	workers      = 4 // pieces of one blob at once
	banTime      = 10 * time.Minute
)

// Network is where peers are found.
type Network interface {
	// Peers are the connected peers.
	Peers() []*p2p.Peer
	// Find looks for others that have announced an artifact's piece list.
	Find(ctx context.Context, key digest.Digest) ([]*p2p.Peer, error)
}

// Fetcher brings blobs into a store, each one once however many ask.
type Fetcher struct {
	store   *store.Store
	network Network
	stored  func(key digest.Digest) // called when a blob of an artifact was stored
	log     *slog.Logger
	bytes   *prometheus.CounterVec // by source: store, peers
	bad     prometheus.Counter     // pieces that were not what they should be

	ctx    context.Context // of all downloads
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex // guards active
	active map[digest.Digest]*download
}

// New makes a fetcher and registers its metrics. stored is called with the
// piece list of each artifact of which a blob arrived.
func New(s *store.Store, n Network, stored func(digest.Digest), reg prometheus.Registerer, log *slog.Logger) *Fetcher {
	f := &Fetcher{
		store: s, network: n, stored: stored, log: log, active: map[digest.Digest]*download{},
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrsia_transfer_bytes_total", Help: "Verified bytes, by where they came from.",
		}, []string{"source"}),
		bad: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pyrsia_transfer_bad_pieces_total", Help: "Pieces from peers that did not have their digest.",
		}),
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	reg.MustRegister(f.bytes, f.bad)
	return f
}

// Close ends all downloads.
func (f *Fetcher) Close() {
	f.stop()
	f.done.Wait()
}

// Reader reads a blob that may still be on its way.
type Reader interface {
	io.ReadSeekCloser
}

// Open opens a blob, bringing it from peers if the store does not have it.
// key is the digest of the piece list that vouches for it. When Open returns,
// the first piece is there and verified.
func (f *Fetcher) Open(ctx context.Context, b pieces.Blob, key digest.Digest) (Reader, error) {
	file, err := f.store.Open(ctx, b.Digest)
	if err == nil {
		f.bytes.WithLabelValues("store").Add(float64(b.Size))
		return file, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		// A disk that does not read is no reason to refuse what peers have.
		f.log.Error("reading the store", "error", err)
	}
	d, err := f.join(b, key)
	if err != nil {
		return nil, err
	}
	if d == nil { // it has just arrived
		return f.store.Open(ctx, b.Digest)
	}
	r := &reader{d: d}
	ctx, cancel := context.WithTimeout(ctx, FirstPiece)
	defer cancel()
	if err := d.wait(ctx, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("fetching blob %s: %w", b.Digest, err), r.Close())
	}
	return r, nil
}

// ReadAll reads a whole blob into memory.
func (f *Fetcher) ReadAll(ctx context.Context, b pieces.Blob, key digest.Digest, limit int64) ([]byte, error) {
	if b.Size > limit {
		return nil, fmt.Errorf("blob %s of %d bytes: at most %d", b.Digest, b.Size, limit)
	}
	r, err := f.Open(ctx, b, key)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// join gives the running download of a blob, or starts it; nil if one has
// ended since the store was asked.
func (f *Fetcher) join(b pieces.Blob, key digest.Digest) (*download, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d, ok := f.active[b.Digest]; ok {
		d.addRef()
		return d, nil
	}
	if f.store.Has(b.Digest) {
		return nil, nil
	}
	if err := f.ctx.Err(); err != nil {
		return nil, fmt.Errorf("fetching blob %s: the node is going down", b.Digest)
	}
	ingest, err := f.store.Create(b.Digest, b.Size)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(ingest.Name())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetching blob %s: %w", b.Digest, err), ingest.Abort())
	}
	d := newDownload(f, b, key, ingest, file)
	f.active[b.Digest] = d
	d.addRef() // of the caller, beside the download's own
	f.done.Go(func() {
		d.run(f.ctx)
		f.mu.Lock()
		delete(f.active, b.Digest)
		f.mu.Unlock()
		if err := d.release(); err != nil {
			f.log.Error("ending a download", "error", err)
		}
	})
	return d, nil
}

// Small brings a blob of unknown size, at most limit bytes, by its digest.
func (f *Fetcher) Small(ctx context.Context, want digest.Digest, limit int64) ([]byte, error) {
	data, err := f.store.ReadAll(ctx, want, limit)
	if err == nil {
		return data, nil
	}
	ctx, cancel := context.WithTimeout(ctx, FirstPiece)
	defer cancel()
	peers := newCandidates(f, want)
	for {
		p, err := peers.next(ctx)
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", want, err)
		}
		data, err := f.small(ctx, p, want, limit)
		if err == nil {
			f.bytes.WithLabelValues("peers").Add(float64(len(data)))
			_, err = f.store.Put(data)
			return data, err
		}
		peers.failed(p, err)
	}
}

func (f *Fetcher) small(ctx context.Context, p *p2p.Peer, want digest.Digest, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	resp, err := p.Get(ctx, blobPath(want), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("peer %s: %w", p.ID, errLacks)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, answered(p, resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	if err != nil {
		return nil, fmt.Errorf("peer %s: %w", p.ID, err)
	}
	if digest.FromBytes(data) != want {
		return nil, &badContent{p, fmt.Errorf("content of %d bytes does not have digest %s", len(data), want)}
	}
	return data, nil
}

// blobPath is where a node serves peers a blob.
func blobPath(d digest.Digest) string { return "/blobs/sha256/" + d.Encoded() }

// badContent is what a lying or broken peer sent.
type badContent struct {
	peer *p2p.Peer
	err  error
}

func (e *badContent) Error() string { return fmt.Sprintf("peer %s: %v", e.peer.ID, e.err) }
func (e *badContent) Unwrap() error { return e.err }

func answered(p *p2p.Peer, resp *http.Response) error {
	return fmt.Errorf("peer %s answered %s", p.ID, resp.Status)
}
