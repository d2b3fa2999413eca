package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// A peer that sends less than slowBytes in slowWindow is given up. Of what is
// small the first bytes are due within firstAnswer.
const (
	slowWindow  = 4 * time.Second
	slowBytes   = 64 << 10
	firstAnswer = 2500 * time.Millisecond
)

// watchdog cancels a request that brings too little for too long.
type watchdog struct {
	cancel  context.CancelCauseFunc
	arrival *arrival
	window  time.Duration

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	over  bool
	got   int64         // at the beginning of this window
	age   time.Duration // likewise
}

func newWatchdog(ctx context.Context, a *arrival, first time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{cancel: cancel, arrival: a, window: first}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(first, w.look)
	return ctx, w
}

// look is called at the end of each window. The first one, if it is a short
// one, is for any byte at all.
func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	got, age := w.arrival.got.Load(), w.arrival.age(time.Now())
	least := int64(1)
	if w.window == slowWindow {
		least = int64(slowBytes * min(1, (age-w.age).Seconds()/slowWindow.Seconds()))
	}
	if got-w.got < least {
		w.cancel(errSlow)
		return
	}
	w.got, w.age, w.window = got, age, slowWindow
	w.timer.Reset(slowWindow)
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
	w.cancel(errLost)
}

// request is a part of a blob that a peer is asked for, or the whole if header is
// empty.
type request struct {
	peer   *p2p.Peer
	blob   digest.Digest
	header http.Header
	length int64 // in bytes; negative: what the peer has, but at most limit
	limit  int64
	out    *buffer
	in     *arrival
	check  func(digest.Digest) error // of what arrived
}

// ranged is the header that asks for a part.
func ranged(offset, length int64) http.Header {
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)}}
}

// get fetches what was requested, or says why the peer did not deliver it.
func (f *Fetcher) get(ctx context.Context, req request) error {
	first := slowWindow
	if req.length <= maxWhole {
		first = firstAnswer
	}
	ctx, w := newWatchdog(ctx, req.in, first)
	defer w.stop()
	err := f.getWatched(ctx, req)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("peer %s: %w", req.peer.ID, context.Cause(ctx))
	}
	return err
}

func (f *Fetcher) getWatched(ctx context.Context, req request) error {
	p, length := req.peer, req.length
	resp, secure, err := p.Get(ctx, blobPath(req.blob), req.header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	want := http.StatusOK
	if len(req.header) > 0 {
		want = http.StatusPartialContent
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("peer %s: %w", p.ID, errLacks)
	case resp.StatusCode != want:
		return answered(p, resp)
	case length < 0 && resp.ContentLength >= 0 && resp.ContentLength <= req.limit:
		length = resp.ContentLength
	case resp.ContentLength != length:
		return &badContent{p, secure, fmt.Errorf("%d bytes of %s: want %d", resp.ContentLength, req.blob, length)}
	}
	h := digest.SHA256.Hash()
	body := f.limits.reader(ctx, req.in.reader(resp.Body), p.ID.String(), length, req.in)
	if err := read(h, body, length, req.out); err != nil {
		return fmt.Errorf("peer %s: %w", p.ID, err)
	}
	if err := req.check(digest.NewDigest(digest.SHA256, h)); err != nil {
		return &badContent{p, secure, err}
	}
	return nil
}

// read reads length bytes, hashing them while they are in the processor's
// cache.
func read(h io.Writer, body io.Reader, length int64, out *buffer) error {
	for done := int64(0); done < length; {
		part := out.grow(int(min(chunk, length-done)))
		n, err := io.ReadAtLeast(body, part, min(len(part), readAtLeast))
		done += int64(n)
		_, _ = h.Write(part[:n]) // a hash never fails
		out.took(n)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// readAtLeast is how much is collected before it is hashed: small parts cost a
// system call each.
const readAtLeast = 32 << 10

// buffer keeps what a peer sends until it is verified. Its memory grows with
// what arrives: a peer that promises a lot and sends little costs little.
type buffer struct{ data []byte }

// grow is for the next n bytes.
func (b *buffer) grow(n int) []byte {
	b.data = slices.Grow(b.data, n)
	return b.data[len(b.data) : len(b.data)+n]
}

// took notes that n bytes came.
func (b *buffer) took(n int) { b.data = b.data[:len(b.data)+n] }

// pieceBuffers are buffers of the size of a piece; maxInMemory bounds them.
var pieceBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, pieces.Size)} }}

// diskError is a failure of this node, not of a peer.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }
