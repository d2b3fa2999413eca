package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// errLacks is a peer's word that it does not have the content.
var errLacks = errors.New("it does not have the content")

// download is one blob on its way into the store.
type download struct {
	f      *Fetcher
	blob   pieces.Blob
	peers  *candidates
	ingest *store.Ingest // written by the workers of run
	file   *os.File      // the same file, for readers

	mu      sync.Mutex // guards what follows
	refs    int        // run's own and one per reader; the last closes file
	have    []bool     // pieces that are verified and written
	ended   bool       // run is over: err says how
	err     error
	changed chan struct{} // closed when have or ended change
}

func newDownload(f *Fetcher, b pieces.Blob, key digest.Digest, ingest *store.Ingest, file *os.File) *download {
	return &download{
		f: f, blob: b, peers: newCandidates(f, key), ingest: ingest, file: file,
		refs: 1, have: make([]bool, b.Count()), changed: make(chan struct{}),
	}
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
	return d.file.Close()
}

// run fetches all pieces and commits the blob to the store.
func (d *download) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, blobTimeout)
	defer cancel()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range d.have {
		group.Go(func() error { return d.piece(gctx, i) })
	}
	err := group.Wait()
	if err != nil {
		err = errors.Join(err, d.ingest.Abort())
	} else {
		err = d.ingest.Commit()
	}
	if err == nil {
		d.f.stored(d.peers.key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.err = true, err
	close(d.changed)
}

// piece brings one piece from whichever peer delivers it.
func (d *download) piece(ctx context.Context, i int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := d.peers.next(ctx)
		if err != nil {
			return fmt.Errorf("piece %d of %s: %w", i, d.blob.Digest, err)
		}
		data, err := d.fetch(ctx, p, i)
		if err != nil {
			d.peers.failed(p, err)
			continue
		}
		d.peers.succeeded(p)
		offset, _ := d.blob.Range(i)
		if _, err := d.ingest.WriteAt(data, offset); err != nil {
			return fmt.Errorf("storing piece %d of %s: %w", i, d.blob.Digest, err)
		}
		d.f.bytes.WithLabelValues("peers").Add(float64(len(data)))
		d.mu.Lock()
		d.have[i] = true
		close(d.changed)
		d.changed = make(chan struct{})
		d.mu.Unlock()
		return nil
	}
}

func (d *download) fetch(ctx context.Context, p *p2p.Peer, i int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pieceTimeout)
	defer cancel()
	offset, length := d.blob.Range(i)
	header := http.Header{}
	if d.blob.Count() > 1 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	}
	resp, err := p.Get(ctx, blobPath(d.blob.Digest), header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("peer %s: %w", p.ID, errLacks)
	case resp.StatusCode != http.StatusPartialContent && d.blob.Count() > 1, resp.StatusCode/100 != 2:
		return nil, answered(p, resp)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(resp.Body, data); err != nil {
		return nil, fmt.Errorf("peer %s: %w", p.ID, err)
	}
	if err := d.blob.Check(i, data); err != nil {
		return nil, &badContent{p, err}
	}
	return data, nil
}

// wait returns when piece i may be read: it is verified and, if it is the
// last, so is the whole blob.
func (d *download) wait(ctx context.Context, i int) error {
	for {
		d.mu.Lock()
		have, ended, err, changed := d.have[i] && i < len(d.have)-1, d.ended, d.err, d.changed
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

// pieceWait bounds how long a reader waits for its next piece.
const pieceWait = 2 * time.Minute

// reader reads a download as its pieces are verified.
type reader struct {
	d      *download
	offset int64
}

func (r *reader) Read(p []byte) (int, error) {
	size := r.d.blob.Size
	if r.offset >= size {
		return 0, io.EOF
	}
	i := int(r.offset / pieces.Size)
	ctx, cancel := context.WithTimeout(r.d.f.ctx, pieceWait)
	defer cancel()
	if err := r.d.wait(ctx, i); err != nil {
		return 0, fmt.Errorf("reading blob %s: %w", r.d.blob.Digest, err)
	}
	start, length := r.d.blob.Range(i)
	if left := start + length - r.offset; int64(len(p)) > left {
		p = p[:left]
	}
	n, err := r.d.file.ReadAt(p, r.offset)
	r.offset += int64(n)
	return n, err
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

func (r *reader) Close() error { return r.d.release() }
