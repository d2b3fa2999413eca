package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// maxThrough is how many blobs are passed on in parallel: each holds a piece in
// memory.
const maxThrough = 16

// through passes a blob from peers on to one client without storing it, because
// the store is full. Each piece is verified before a byte of it goes on.
type through struct {
	f      *Fetcher
	blob   pieces.Blob
	key    digest.Digest
	offset int64

	piece  int // that is loaded, or will be
	stop   context.CancelFunc
	race   *race
	loaded chan struct{} // closed when the race is over: data and err say how
	data   []byte
	err    error
}

// openThrough fetches the piece at an offset, so that an unavailable blob is
// known before the answer begins.
func (f *Fetcher) openThrough(ctx context.Context, b pieces.Blob, key digest.Digest, offset int64) (*through, error) {
	select {
	case f.through <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("there is no room in the store, and enough is passed on without it: %w", context.Cause(ctx))
	}
	t := &through{f: f, blob: b, key: key, offset: offset}
	t.load(int(offset / pieces.Size))
	if err := await(ctx, t.race.look, t.wait); err != nil {
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
		t.end()
		t.load(i)
	}
	if err := t.wait(t.f.ctx); err != nil {
		return 0, fmt.Errorf("passing blob %s on: %w", t.blob.Digest, err)
	}
	start, _ := t.blob.Range(i)
	n := copy(p, t.data[t.offset-start:])
	t.offset += int64(n)
	return n, nil
}

// load begins to bring one piece, from the first peer that delivers it.
func (t *through) load(i int) {
	offset, length := t.blob.Range(i)
	t.race = newRace(t.f, request{blob: t.blob.Digest, header: ranged(offset, length), length: length,
		check: func(got digest.Digest) error { return t.blob.CheckDigest(i, got) }}, t.key, piecePace)
	ctx, stop := context.WithCancel(t.f.ctx)
	loaded := make(chan struct{})
	t.piece, t.stop, t.loaded = i, stop, loaded
	go func() {
		defer close(loaded)
		in, err := t.race.run(ctx)
		if t.err = err; err == nil {
			t.data = in.data
			t.f.metrics.bytes.WithLabelValues("peers").Add(float64(length))
		}
	}()
}

// wait waits until the piece is loaded.
func (t *through) wait(ctx context.Context) error {
	select {
	case <-t.loaded:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end ends what loads a piece.
func (t *through) end() {
	t.stop()
	<-t.loaded
	t.data = nil
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
	t.end()
	<-t.f.through
	return nil
}
