package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

const (
	// stallTimeout bounds how long a download goes on that brings not a byte.
	stallTimeout = 30 * time.Second
	// quickSlow is the least time after which a piece on its way counts as slow.
	quickSlow = time.Second
	// pieceTimeout is how long a reader waits for a piece that others are to
	// fetch before this node asks for it directly.
	pieceTimeout = 3 * time.Second
	// starving is for how long a download that gets nothing relies on offers
	// from others.
	starving = 2 * time.Second
)

// download is one blob on its way into the store.
type download struct {
	f    *Fetcher
	blob pieces.Blob
	key  digest.Digest
	part *store.Partial

	writing sync.Mutex // held while a piece is written
	whole   wholeHash

	mu       sync.Mutex // guards what follows
	refs     int        // run's own and one per reader; the last closes part
	have     pieces.Set // verified and written
	left     int        // pieces that are not in have
	fetches  map[int][]*fetch
	readers  map[int]time.Time // pieces that are waited for, and since when
	pace     time.Duration     // that a piece took lately, smoothed
	progress time.Time         // when the last piece came
	queued   int               // members that wait for others' pieces to come first
	sourced  bool              // a peer has what is missing, or knows one that does
	ended    bool              // run is over: err says how
	err      error
	changed  chan struct{} // closed when any of this changes

	swarm swarm
}

// errContradiction is a piece list that was wrong from the start.
var errContradiction = errors.New("the pieces of the list make another blob")

// fetch is one piece on its way from one peer.
type fetch struct {
	*flight
	member *member
}

func newDownload(f *Fetcher, b pieces.Blob, key digest.Digest, part *store.Partial) *download {
	d := &download{
		f: f, blob: b, key: key, part: part,
		refs: 1, have: pieces.NewSet(b.Count()), left: b.Count(), fetches: map[int][]*fetch{},
		readers: map[int]time.Time{}, progress: time.Now(), changed: make(chan struct{}), whole: wholeHash{h: digest.SHA256.Hash()},
	}
	d.swarm = swarm{d: d, members: map[peer.ID]*member{}, invited: map[peer.ID]*p2p.Peer{}, left: map[peer.ID]time.Time{}}
	return d
}

func (d *download) addRef() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refs++
}

func (d *download) release() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refs--
	if d.refs > 0 {
		return nil
	}
	return d.part.Close()
}

// notify wakes all that wait for a change; the caller holds mu.
func (d *download) notify() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *download) missing() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.left
}

// run fetches all pieces and commits the blob to the store.
func (d *download) run(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	whole := make(chan error, 1)
	err := d.resume(ctx)
	if err == nil {
		go func() { whole <- d.hash(ctx) }()
		err = d.swarm.run(ctx)
		if err != nil {
			cancel(err)
		}
		err = errors.Join(err, <-whole)
	}
	cancel(errLost)
	d.swarm.done.Wait()
	switch {
	case err == nil:
		if err = d.part.Commit(); err == nil {
			d.f.stored(d.key)
		}
	case errors.Is(err, errContradiction), errors.Is(err, store.ErrFull), d.missing() == d.blob.Count():
		err = errors.Join(err, d.part.Drop())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.err = true, err
	d.notify()
}

// resume looks which pieces a process before this one has written. Nothing but
// their digest says so: a crash at any moment leaves pieces that count and
// pieces that do not.
func (d *download) resume(ctx context.Context) error {
	buf := make([]byte, chunk)
	for i := range d.blob.Count() {
		offset, length := d.blob.Range(i)
		if empty, err := hole(d.part.File, offset, length); err != nil || empty {
			continue // when in doubt it is fetched
		}
		h := digest.SHA256.Hash()
		if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(d.part, offset, length), buf); err != nil {
			return fmt.Errorf("reading what is there of %s: %w", d.blob.Digest, err)
		}
		if d.blob.CheckDigest(i, digest.NewDigest(digest.SHA256, h)) == nil {
			d.add(i)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// add notes a verified and written piece.
func (d *download) add(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have.Add(i)
	d.left--
	d.progress = time.Now()
	d.notify()
}

// foundSource notes that a peer has what is missing, or has found one.
func (d *download) foundSource() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sourced = true
}

// hasSource tells whether a peer has what is missing, as far as this node
// knows. If not it may only be waiting for nodes that wait for it.
func (d *download) hasSource() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sourced
}

func (d *download) has(i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.have.Has(i)
}

// hash hashes the whole blob while its pieces come.
func (d *download) hash(ctx context.Context) error {
	buf := make([]byte, 2*chunk)
	for i := range d.blob.Count() {
		if err := d.waitPiece(ctx, i, false); err != nil {
			return err
		}
		offset, length := d.blob.Range(i)
		if err := d.whole.catchUp(i, io.NewSectionReader(d.part, offset, length), buf); err != nil {
			return fmt.Errorf("hashing %s: %w", d.blob.Digest, err)
		}
	}
	if got := d.whole.digest(); got != d.blob.Digest {
		return fmt.Errorf("%w: %s instead of %s", errContradiction, got, d.blob.Digest)
	}
	return nil
}
