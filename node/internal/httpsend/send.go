// Package httpsend writes large HTTP responses, in the cheapest way for the
// host and with a time limit for each part that a client takes. It may import
// the store, whose files it sends; the mirror calls it.
package httpsend

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

const (
	// Timeout is how long a client may take for one part. A slower one has
	// gone, or means to keep the node busy.
	Timeout = time.Minute
	// partSize is how much is passed to the kernel in one call without a block.
	partSize = 1 << 20
	// A block fits into a core's own cache, and all of them into little memory.
	blockSize  = 256 << 10
	maxBlocks  = 64
	smallBlock = 32 << 10
)

// Writer is an http.ResponseWriter for content of any length. It remembers
// what was sent.
type Writer struct {
	http.ResponseWriter
	Code  int       // 0 until the header is written
	Bytes int64     // of the body
	First time.Time // when the header was written

	control *http.ResponseController
}

// To wraps the writer of a server.
func To(w http.ResponseWriter) *Writer {
	return &Writer{ResponseWriter: w, control: http.NewResponseController(w)}
}

// Unwrap is for http.ResponseController.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *Writer) WriteHeader(code int) {
	if w.Code == 0 {
		w.Code, w.First = code, time.Now()
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *Writer) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.Bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher: the header goes before there is a body.
func (w *Writer) Flush() {
	w.begin()
	_ = w.control.Flush() // an error shows at the next write
}

// begin gives the client its time for the next part.
func (w *Writer) begin() {
	if w.Code == 0 {
		w.Code, w.First = http.StatusOK, time.Now()
	}
	// A stream that knows no deadline is bounded by its own transport.
	_ = w.control.SetWriteDeadline(time.Now().Add(Timeout))
}

// A block that was just read is still in the processor's cache when it is
// written. For a client on the same host, such as a container engine, that
// makes a copy cheaper for both sides than sendfile(2), which passes on the
// file's pages one by one, so that the client reads them from memory.
var (
	blocks = sync.Pool{New: func() any { b := make([]byte, blockSize); return &b }}
	inUse  atomic.Int32
)

// take gives a block, or nil if there are enough of them: slow clients, of
// which there may be many, do not each keep one.
func take() *[]byte {
	if inUse.Add(1) > maxBlocks {
		inUse.Add(-1)
		return nil
	}
	return blocks.Get().(*[]byte)
}

func give(block *[]byte) {
	blocks.Put(block)
	inUse.Add(-1)
}

// ReadFrom implements io.ReaderFrom.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	if block := take(); block != nil {
		defer give(block)
		return w.copy(src, *block)
	}
	if limited, ok := src.(*io.LimitedReader); ok {
		if file := fileOf(limited.R); file != nil {
			return w.sendFile(file, limited)
		}
	}
	return w.copy(src, make([]byte, smallBlock))
}

// copy hides ReadFrom, so that the time that src takes is not the client's.
func (w *Writer) copy(src io.Reader, block []byte) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, block)
}

func fileOf(r io.Reader) *os.File {
	switch r := r.(type) {
	case *store.Blob:
		return r.File
	case *os.File:
		return r
	}
	return nil
}

// sendFile sends a file part by part: the server hands each to sendfile(2).
func (w *Writer) sendFile(file *os.File, src *io.LimitedReader) (sent int64, err error) {
	to, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return w.copy(src, make([]byte, smallBlock))
	}
	for src.N > 0 {
		w.begin()
		part := &io.LimitedReader{R: file, N: min(src.N, partSize)}
		n, err := to.ReadFrom(part)
		sent, src.N, w.Bytes = sent+n, src.N-n, w.Bytes+n
		if err != nil {
			return sent, err
		}
		if n == 0 {
			return sent, errShrunk
		}
	}
	return sent, nil
}

var errShrunk = errors.New("the file has become shorter")
