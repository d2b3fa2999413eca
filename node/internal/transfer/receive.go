package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// A peer that sends less than slowBytes in slowWindow is given up.
const (
	slowWindow = 4 * time.Second
	slowBytes  = 64 << 10
)

// watchdog cancels a request that brings too little for too long.
type watchdog struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
	got    atomic.Int64 // in this window
}

func newWatchdog(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{cancel: cancel}
	w.timer = time.AfterFunc(slowWindow, func() {
		if w.got.Swap(0) < slowBytes {
			cancel(errSlow)
			return
		}
		w.timer.Reset(slowWindow)
	})
	return ctx, w
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(errLost)
}

// wish is a part of a blob that a peer is asked for, or the whole if header is
// empty.
type wish struct {
	peer   *p2p.Peer
	blob   digest.Digest
	header http.Header
	length int64 // in bytes; negative: what the peer has, but at most limit
	limit  int64
	out    *buffer
	got    *atomic.Int64             // if not nil: bytes that have come so far
	check  func(digest.Digest) error // of what came
}

// ranged is the header that asks for a part.
func ranged(offset, length int64) http.Header {
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)}}
}

// get fulfils a wish, or says why the peer did not.
func (f *Fetcher) get(ctx context.Context, wish wish) error {
	ctx, w := newWatchdog(ctx)
	defer w.stop()
	err := f.getWatched(ctx, w, wish)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("peer %s: %w", wish.peer.ID, context.Cause(ctx))
	}
	return err
}

func (f *Fetcher) getWatched(ctx context.Context, w *watchdog, wish wish) error {
	p, length := wish.peer, wish.length
	resp, secure, err := p.Get(ctx, blobPath(wish.blob), wish.header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	want := http.StatusOK
	if len(wish.header) > 0 {
		want = http.StatusPartialContent
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("peer %s: %w", p.ID, errLacks)
	case resp.StatusCode != want:
		return answered(p, resp)
	case length < 0 && resp.ContentLength >= 0 && resp.ContentLength <= wish.limit:
		length = resp.ContentLength
	case resp.ContentLength != length:
		return &badContent{p, secure, fmt.Errorf("%d bytes of %s: want %d", resp.ContentLength, wish.blob, length)}
	}
	h := sha256.New()
	body := f.limits.reader(ctx, resp.Body, p.ID.String())
	if err := w.read(h, body, length, wish.out, wish.got); err != nil {
		return fmt.Errorf("peer %s: %w", p.ID, err)
	}
	if err := wish.check(digest.NewDigest(digest.SHA256, h)); err != nil {
		return &badContent{p, secure, err}
	}
	return nil
}

// read reads length bytes, hashing them while they are in the processor's
// cache.
func (w *watchdog) read(h io.Writer, body io.Reader, length int64, out *buffer, got *atomic.Int64) error {
	for done := int64(0); done < length; {
		part := out.room(int(min(chunk, length-done)))
		n, err := io.ReadAtLeast(body, part, min(len(part), readAtLeast))
		w.got.Add(int64(n))
		if got != nil {
			got.Add(int64(n))
		}
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
// what comes: a peer that promises much and sends little costs little.
type buffer struct{ data []byte }

// room is for the next n bytes.
func (b *buffer) room(n int) []byte {
	b.data = slices.Grow(b.data, n)
	return b.data[len(b.data) : len(b.data)+n]
}

// took notes that n bytes came.
func (b *buffer) took(n int) { b.data = b.data[:len(b.data)+n] }

// pieceBuffers are buffers with room for a piece; maxInMemory bounds them.
var pieceBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, pieces.Size)} }}

// diskError is a failure of this node, for which no peer is to blame.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }
