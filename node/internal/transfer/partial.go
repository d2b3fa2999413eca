package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// partial is the file of a blob on its way, for peers. Whatever it is asked
// for, it reads verified pieces alone: the rest of the file consists of holes
// and leftovers of an earlier process.
type partial struct {
	d    *download
	file *os.File
	at   int64
}

// open opens the file of a download once more; it may have been committed.
func (d *download) open(ctx context.Context) (content, error) {
	f, err := os.Open(d.part.Name())
	if errors.Is(err, os.ErrNotExist) {
		return d.f.store.Open(ctx, d.blob.Digest)
	}
	if err != nil {
		return nil, err
	}
	// The name may be another download's by now, which has not verified the same.
	ours, err1 := d.part.Stat()
	opened, err2 := f.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(ours, opened) {
		return nil, errors.Join(store.ErrNotFound, f.Close())
	}
	return &partial{d: d, file: f}, nil
}

func (p *partial) Read(b []byte) (int, error) {
	if p.at >= p.d.blob.Size {
		return 0, io.EOF
	}
	n := p.d.verified(p.at, int64(len(b)))
	if n == 0 && len(b) > 0 {
		return 0, fmt.Errorf("blob %s is not verified yet at %d", p.d.blob.Digest, p.at)
	}
	m, err := p.file.Read(b[:n])
	p.at += int64(m)
	return m, err
}

// Seek implements io.Seeker.
func (p *partial) Seek(offset int64, whence int) (int64, error) {
	at, err := p.file.Seek(offset, whence)
	if err == nil {
		p.at = at
	}
	return at, err
}

// Stat implements content.
func (p *partial) Stat() (os.FileInfo, error) { return p.file.Stat() }

// Close implements io.Closer.
func (p *partial) Close() error { return p.file.Close() }

// fileOf is the file from which all that l is to read may be sent as it is.
func fileOf(l *io.LimitedReader) *os.File {
	switch r := l.R.(type) {
	case *store.Blob:
		return r.File
	case *partial:
		if r.d.verified(r.at, l.N) == l.N {
			return r.file
		}
	}
	return nil
}

// verified is how many of n bytes from an offset on are verified without a gap.
func (d *download) verified(offset, n int64) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	end, last := offset, min(offset+n, d.blob.Size)
	for end < last && d.have.Has(int(end/pieces.Size)) {
		end = min(last, (end/pieces.Size+1)*pieces.Size)
	}
	return end - offset
}

// hasRange tells whether all pieces of a single range "bytes=A-B" are verified.
func (d *download) hasRange(ranges string) bool {
	first, last, ok := strings.Cut(strings.TrimPrefix(ranges, "bytes="), "-")
	a, err1 := strconv.ParseInt(first, 10, 64)
	b, err2 := strconv.ParseInt(last, 10, 64)
	if !ok || err1 != nil || err2 != nil || a < 0 || b < a || b >= d.blob.Size {
		return false
	}
	return d.verified(a, b-a+1) == b-a+1
}
