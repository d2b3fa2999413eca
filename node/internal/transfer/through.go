package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

const (
	maxThrough     = 16               // blobs passed on at once: each holds a piece in memory
	throughTimeout = 20 * time.Second // for one piece
)

// through passes a blob from peers on to one client without storing it: there
// is no room. Each piece is verified before a byte of it goes on.
type through struct {
	f      *Fetcher
	blob   pieces.Blob
	key    digest.Digest
	offset int64
	piece  int // that data holds; -1: none
	data   []byte
}

// openThrough brings the piece at an offset, so that a blob that nobody has is
// known before the answer begins.
func (f *Fetcher) openThrough(ctx context.Context, b pieces.Blob, key digest.Digest, offset int64) (*through, error) {
	select {
	case f.through <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("there is no room in the store, and enough is passed on without it: %w", context.Cause(ctx))
	}
	t := &through{f: f, blob: b, key: key, offset: offset, piece: -1}
	if err := t.load(ctx, int(offset/pieces.Size)); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *through) Read(p []byte) (int, error) {
	if t.offset >= t.blob.Size {
		return 0, io.EOF
	}
	i := int(t.offset / pieces.Size)
	if i != t.piece {
		ctx, cancel := context.WithTimeout(t.f.ctx, throughTimeout)
		defer cancel()
		if err := t.load(ctx, i); err != nil {
			return 0, fmt.Errorf("passing blob %s on: %w", t.blob.Digest, err)
		}
	}
	start, _ := t.blob.Range(i)
	n := copy(p, t.data[t.offset-start:])
	t.offset += int64(n)
	return n, nil
}

// load brings one piece from the first peer that delivers it.
func (t *through) load(ctx context.Context, i int) error {
	var mu sync.Mutex // held by whoever tries a peer
	asked := map[*p2p.Peer]bool{}
	var last error
	found := false
	try := func(p *p2p.Peer) {
		mu.Lock()
		defer mu.Unlock()
		if found || asked[p] || p.Banned() || ctx.Err() != nil {
			return
		}
		asked[p] = true
		last = t.fetch(ctx, p, i)
		if insecure(last) {
			t.f.blame(p, last)
			last = t.fetch(ctx, p, i)
		}
		if last != nil {
			t.f.blame(p, last)
			return
		}
		found = true
	}
	for _, p := range t.f.holders.order(t.key, t.f.network.Peers(), false) {
		if try(p); found {
			return nil
		}
	}
	find, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	err := t.f.network.Find(find, t.key, try)
	mu.Lock()
	defer mu.Unlock()
	if found {
		return nil
	}
	return errors.Join(ErrUnavailable, last, err)
}

func (t *through) fetch(ctx context.Context, p *p2p.Peer, i int) error {
	offset, length := t.blob.Range(i)
	t.piece = -1
	in := &buffer{slices.Grow(t.data[:0], pieces.Size)}
	err := t.f.get(ctx, wish{
		peer: p, blob: t.blob.Digest, header: ranged(offset, length), length: length, out: in,
		check: func(got digest.Digest) error { return t.blob.CheckDigest(i, got) },
	})
	t.data = in.data
	if err != nil {
		return err
	}
	t.f.metrics.bytes.WithLabelValues("peers").Add(float64(length))
	p.Delivered(int(length))
	t.piece = i
	return nil
}

// Seek implements io.Seeker.
func (t *through) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += t.offset
	case io.SeekEnd:
		offset += t.blob.Size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seeking in blob %s: negative offset", t.blob.Digest)
	}
	t.offset = offset
	return offset, nil
}

// Close gives the place back.
func (t *through) Close() error {
	<-t.f.through
	return nil
}
