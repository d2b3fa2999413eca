package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// throughWait bounds how long a reader waits for a place to go on without the store.
const throughWait = time.Minute

// wait returns when piece i may be read: it is verified and, if it is the
// last, so is the whole blob.
func (d *download) wait(ctx context.Context, i int) error {
	return d.waitPiece(ctx, i, true)
}

// waitPiece waits for piece i to be verified, and for a client that reads the
// last piece also for the whole blob. A waiting client makes the piece urgent.
func (d *download) waitPiece(ctx context.Context, i int, client bool) error {
	since := time.Now()
	for {
		d.mu.Lock()
		have, ended, err, changed := d.have.Has(i), d.ended, d.err, d.changed
		if client {
			have = have && i < d.blob.Count()-1
			if first, ok := d.readers[i]; !have && !ended && (!ok || since.Before(first)) {
				d.readers[i] = since
			}
			if have || ended {
				delete(d.readers, i)
			}
		}
		d.mu.Unlock()
		if have {
			return nil
		}
		if ended {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitEnd waits until the blob is in the store, or will not be.
func (d *download) waitEnd(ctx context.Context) error {
	for {
		d.mu.Lock()
		ended, err, changed := d.ended, d.err, d.changed
		d.mu.Unlock()
		if ended {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reader reads a download as its pieces are verified.
type reader struct {
	d        *download
	offset   int64
	unstored *through // of a download that did not fit on the disk after all
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ready()
	if errors.Is(err, store.ErrFull) && r.unstored == nil {
		ctx, cancel := context.WithTimeout(r.d.f.ctx, throughWait)
		defer cancel()
		r.unstored, err = r.d.f.openThrough(ctx, r.d.blob, r.d.key, r.offset)
	}
	if r.unstored != nil {
		r.unstored.offset = r.offset
		m, err := r.unstored.Read(p)
		r.offset += int64(m)
		return m, err
	}
	if err != nil {
		return 0, err
	}
	m, err := r.d.part.ReadAt(p[:min(int64(len(p)), n)], r.offset)
	r.offset += int64(m)
	return m, err
}

// ready waits until something can be read, and returns how many bytes of it. The
// download ends when nothing arrives any more.
func (r *reader) ready() (int64, error) {
	if r.offset >= r.d.blob.Size {
		return 0, io.EOF
	}
	i := int(r.offset / pieces.Size)
	if err := r.d.wait(r.d.f.ctx, i); err != nil {
		return 0, fmt.Errorf("reading blob %s: %w", r.d.blob.Digest, err)
	}
	start, length := r.d.blob.Range(i)
	return start + length - r.offset, nil
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.d.blob.Size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seeking in blob %s: negative offset", r.d.blob.Digest)
	}
	r.offset = offset
	return offset, nil
}

// Close gives the download back, which goes on.
func (r *reader) Close() error {
	var err error
	if r.unstored != nil {
		err = r.unstored.Close()
	}
	return errors.Join(err, r.d.release())
}
