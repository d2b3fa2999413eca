// Package transfer fetches blobs from peers and serves blobs to peers. A blob
// comes in pieces from several peers in parallel; each piece is checked before
// it is stored or passed on, and the last one is passed on only when the whole
// blob is verified. A node serves the verified pieces of a blob before it has
// all of them, so that nodes which start together trade pieces. It may import
// p2p, pieces, the store and server; mirror, prefetch and node call it.
package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// ErrUnavailable is returned when no peer that could be asked has the content.
var ErrUnavailable = errors.New("no peer has it")

const (
	findTimeout = 5 * time.Second
	firstPeer   = 2 * time.Second // that a node without any peer waits for one
	banTime     = 10 * time.Minute
	avoidTime   = time.Minute // for which a peer that was slow is asked last
	// maxWhole is the largest blob in bytes that each node fetches as a whole.
	// For a larger one it pays to agree who fetches which piece, so that others
	// get it from there.
	maxWhole = 1 << 20
)

// Network is where peers are found.
type Network interface {
	// Peers are the connected peers.
	Peers() []*p2p.Peer
	// Peer finds a connected peer.
	Peer(id peer.ID) (*p2p.Peer, bool)
	// Find looks for others that have announced an artifact's piece list, and
	// calls found with each one that could be reached. If none could, the error
	// names them.
	Find(ctx context.Context, key digest.Digest, found func(*p2p.Peer)) error
	// Gone are nodes that were connected, and had something, as had tells, or
	// said that they had everything.
	Gone(had func(peer.ID) bool) []peer.AddrInfo
}

// Fetcher brings blobs into a store, each one once however many ask.
type Fetcher struct {
	store    *store.Store
	network  Network
	stored   func(key digest.Digest) // called when a blob of an artifact was stored
	through  chan struct{}           // one per blob that is passed on without the store
	limits   *Limits
	log      *slog.Logger
	metrics  *metrics
	holders  *holders
	small    singleflight.Group // blobs that are fetched whole, by digest
	lanes    int                // pieces that may be on their way at a time
	failures *lru.Cache[digest.Digest, attempt]
	fastest  fastest

	ctx        context.Context // until Close: a download outlives the request that began it
	stop       context.CancelFunc
	done       sync.WaitGroup
	mu         sync.Mutex // guards what follows
	active     map[digest.Digest]*download
	onTheirWay map[*flight]bool
	arrived    chan struct{} // closed when one of them has come, or failed
	relieved   time.Time     // when one was given up last
	alone      time.Time     // since when there is no peer; zero: there is one
}

// New makes a fetcher and registers its metrics. stored is called with the
// piece list of each artifact of which a blob arrived.
func New(s *store.Store, n Network, stored func(digest.Digest), limits *Limits, reg prometheus.Registerer, log *slog.Logger) *Fetcher {
	f := &Fetcher{
		store: s, network: n, stored: stored, limits: limits, log: log,
		holders: newHolders(), active: map[digest.Digest]*download{}, onTheirWay: map[*flight]bool{}, arrived: make(chan struct{}),
	}
	f.metrics = newMetrics(reg, f)
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.through = make(chan struct{}, maxThrough)
	f.lanes = limits.lanes()
	f.failures = newAttempts()
	return f
}

// Close ends all downloads. What they have verified stays for the next start.
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
// the first piece is there and verified, or, over a slow link, on its way.
func (f *Fetcher) Open(ctx context.Context, b pieces.Blob, key digest.Digest) (Reader, error) {
	file, err := f.store.Open(ctx, b.Digest)
	if err == nil {
		f.store.Touch(key)
		f.metrics.bytes.WithLabelValues("store").Add(float64(b.Size))
		return file, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		// Peers may have what this disk cannot read.
		f.log.Error("reading the store", "error", err)
	}
	if err := f.recentFailure(b.Digest, time.Now()); err != nil {
		return nil, fmt.Errorf("fetching blob %s: %w", b.Digest, err)
	}
	started := time.Now()
	r, err := f.bring(ctx, b, key)
	if err != nil {
		return nil, fmt.Errorf("fetching blob %s: %w", b.Digest, err)
	}
	f.metrics.firstByte.Observe(time.Since(started).Seconds())
	return r, nil
}

func (f *Fetcher) bring(ctx context.Context, b pieces.Blob, key digest.Digest) (Reader, error) {
	if b.Size <= maxWhole {
		data, err := f.whole(ctx, b.Digest, b.Size, b.Size, key)
		if err != nil {
			return nil, err
		}
		return memory{bytes.NewReader(data)}, nil
	}
	d, err := f.join(b, key)
	if errors.Is(err, store.ErrFull) {
		return f.openThrough(ctx, b, key, 0)
	}
	if err != nil {
		return nil, err
	}
	if d == nil { // it has just arrived
		return f.store.Open(ctx, b.Digest)
	}
	r := &reader{d: d}
	if err := await(ctx, d.look, func(ctx context.Context) error { return d.wait(ctx, 0) }); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// memory reads content that is not worth a file.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// Has tells whether the store has a blob.
func (f *Fetcher) Has(d digest.Digest) bool { return f.store.Has(d) }

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

// Small brings a blob of unknown size, at most limit bytes, by its digest: a
// piece list.
func (f *Fetcher) Small(ctx context.Context, want digest.Digest, limit int64) ([]byte, error) {
	data, err := f.store.ReadAll(ctx, want, limit)
	if err == nil {
		return data, nil
	}
	if err = f.recentFailure(want, time.Now()); err == nil {
		data, err = f.whole(ctx, want, -1, limit, want)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", want, err)
	}
	return data, nil
}

// Bring brings a blob into the store, if it is not there, and waits for it. It
// fails with store.ErrFull if it does not fit.
func (f *Fetcher) Bring(ctx context.Context, b pieces.Blob, key digest.Digest) error {
	if f.store.Has(b.Digest) {
		return nil
	}
	var err error
	if b.Size <= maxWhole {
		_, err = f.whole(ctx, b.Digest, b.Size, b.Size, key)
	} else {
		err = f.bringPieces(ctx, b, key)
	}
	if err == nil && !f.store.Has(b.Digest) {
		err = store.ErrFull // or evicted already
	}
	if err != nil {
		return fmt.Errorf("fetching blob %s: %w", b.Digest, err)
	}
	return nil
}

func (f *Fetcher) bringPieces(ctx context.Context, b pieces.Blob, key digest.Digest) error {
	d, err := f.join(b, key)
	if d == nil || err != nil {
		return err
	}
	return errors.Join(d.waitEnd(ctx), d.release())
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
		return nil, errors.New("the node is going down")
	}
	part, err := f.store.Partial(b.Digest, b.Size)
	if err != nil {
		return nil, err
	}
	d := newDownload(f, b, key, part)
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

// download finds a running download.
func (f *Fetcher) download(blob digest.Digest) *download {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.active[blob]
}

// interested notes that a peer wants pieces of a blob: if this node wants them
// too, they can trade.
func (f *Fetcher) interested(blob digest.Digest, id peer.ID) {
	if d := f.download(blob); d != nil {
		d.invite(id)
	}
}

// blobPath is where a node serves peers a blob.
func blobPath(d digest.Digest) string { return "/blobs/sha256/" + d.Encoded() }

// piecesPath is where a node offers peers pieces of a blob.
func piecesPath(d digest.Digest) string { return "/pieces/sha256/" + d.Encoded() }
