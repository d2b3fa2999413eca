// Package server makes HTTP servers that a client cannot keep busy for ever:
// connections are bounded, and so is the time that a client may take for each
// part of what it sends or receives. An honest client may be slow as long as
// bytes move. It imports nothing of the project; everything that serves HTTP
// calls it.
package server

import (
	"io"
	"net/http"
	"time"
)

const (
	headerTimeout = 10 * time.Second // for a request's header
	idleTimeout   = 2 * time.Minute  // between two requests
	maxHeader     = 64 << 10         // bytes
	// bodyTimeout is for a request's whole body: none is large.
	bodyTimeout = 30 * time.Second
	// stallTimeout is how long a client may take for one part of an answer.
	stallTimeout = time.Minute
	// writePart is a part in memory, filePart one that the kernel sends.
	writePart = 256 << 10
	filePart  = 1 << 20
)

// New makes a server. The handler sets the deadlines of its answers itself:
// Pace does that.
func New(h http.Handler) *http.Server {
	return &http.Server{
		Handler: timely(h, bodyTimeout), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		WriteTimeout: 2 * stallTimeout, // until the handler sets another one
	}
}

// timely bounds the time for a request's body. A server's ReadTimeout would go
// on after the body has ended, and cut a long answer.
func timely(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			control := http.NewResponseController(w)
			// It also applies to a body that no handler reads: the server waits
			// for its end.
			_ = control.SetReadDeadline(time.Now().Add(limit))
			r.Body = &body{r.Body, control}
		}
		h.ServeHTTP(w, r)
	})
}

// body lifts the deadline when the request has been read.
type body struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
