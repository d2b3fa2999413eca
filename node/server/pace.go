package server

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// Pace gives the client a deadline for each part of an answer, which begins
// when the part is there to be sent.
func Pace(h http.Handler) http.Handler { return pace(h, stallTimeout) }

func pace(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paced := &pacedWriter{w, http.NewResponseController(w), limit}
		h.ServeHTTP(paced, r)
		paced.begin() // flushes the server's buffer
	})
}

type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
}

// Unwrap is for http.ResponseController.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *pacedWriter) begin() { _ = w.control.SetWriteDeadline(time.Now().Add(w.limit)) }

// Write implements http.ResponseWriter.
func (w *pacedWriter) Write(p []byte) (n int, err error) {
	for {
		w.begin()
		m, err := w.ResponseWriter.Write(p[:min(len(p), writePart)])
		n, p = n+m, p[m:]
		if err != nil || len(p) == 0 {
			return n, err
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// ReadFrom implements io.ReaderFrom: a file is sent by the kernel, part by part.
func (w *pacedWriter) ReadFrom(src io.Reader) (n int64, err error) {
	limited, ok := src.(*io.LimitedReader)
	to, can := w.ResponseWriter.(io.ReaderFrom)
	if ok && can {
		if file, ok := limited.R.(*os.File); ok {
			return w.sendFile(to, file, limited)
		}
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// ReadFrom and WriteTo are hidden, so that the time src takes is not the client's.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, *buf)
}

func (w *pacedWriter) sendFile(to io.ReaderFrom, file *os.File, src *io.LimitedReader) (sent int64, err error) {
	for src.N > 0 {
		w.begin()
		n, err := to.ReadFrom(&io.LimitedReader{R: file, N: min(src.N, filePart)})
		sent, src.N = sent+n, src.N-n
		if err != nil || n == 0 {
			return sent, err
		}
	}
	return sent, nil
}
