package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
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

// get asks a peer for a part of a blob, or for the whole if header is empty.
// It reads length bytes into buf, or what the peer has if that is negative,
// but at most limit, and returns their digest.
func (f *Fetcher) get(ctx context.Context, p *p2p.Peer, blob digest.Digest, header http.Header, length, limit int64, buf *[]byte) (digest.Digest, error) {
	ctx, w := newWatchdog(ctx)
	defer w.stop()
	got, err := f.getWatched(ctx, w, p, blob, header, length, limit, buf)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("peer %s: %w", p.ID, context.Cause(ctx))
	}
	return got, err
}

func (f *Fetcher) getWatched(ctx context.Context, w *watchdog, p *p2p.Peer, blob digest.Digest, header http.Header, length, limit int64, buf *[]byte) (digest.Digest, error) {
	resp, err := p.Get(ctx, blobPath(blob), header)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	want := http.StatusOK
	if len(header) > 0 {
		want = http.StatusPartialContent
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return "", fmt.Errorf("peer %s: %w", p.ID, errLacks)
	case resp.StatusCode != want:
		return "", answered(p, resp)
	case length < 0 && resp.ContentLength >= 0 && resp.ContentLength <= limit:
		length = resp.ContentLength
	case resp.ContentLength != length:
		return "", &badContent{p, fmt.Errorf("%d bytes of %s: want %d", resp.ContentLength, blob, length)}
	}
	h := sha256.New()
	body := f.limits.reader(ctx, resp.Body, p.ID.String())
	if err := w.read(h, body, length, buf); err != nil {
		return "", fmt.Errorf("peer %s: %w", p.ID, err)
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// read reads length bytes, hashing them while they are in the processor's
// cache. The memory grows with what comes: a peer that promises much and sends
// little costs little.
func (w *watchdog) read(h io.Writer, body io.Reader, length int64, buf *[]byte) error {
	out := (*buf)[:0]
	for int64(len(out)) < length {
		part := min(chunk, int(length)-len(out))
		out = slices.Grow(out, part)
		n, err := body.Read(out[len(out) : len(out)+part])
		w.got.Add(int64(n))
		_, _ = h.Write(out[len(out) : len(out)+n]) // a hash never fails
		out = out[:len(out)+n]
		if errors.Is(err, io.EOF) && int64(len(out)) < length {
			return io.ErrUnexpectedEOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	*buf = out
	return nil
}

// buffer lends memory for one piece; the caller gives it back.
func (f *Fetcher) buffer(ctx context.Context, size int64) ([]byte, error) {
	select {
	case b := <-f.buffers:
		if int64(cap(b)) < size {
			b = make([]byte, size)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// giveBack takes a buffer back. While nothing is on its way none is kept.
func (f *Fetcher) giveBack(b []byte) {
	f.mu.Lock()
	idle := len(f.active) == 0
	f.mu.Unlock()
	if idle {
		b = nil
	}
	f.buffers <- b
}
