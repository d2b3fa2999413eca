package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/server"
)

// Headers of a request for an offer.
const (
	// headerUrgent asks for an offer regardless of what others get.
	headerUrgent = "Pyrsia-Urgent"
	// headerAlone says that no other peer offers anything.
	headerAlone = "Pyrsia-Alone"
	// headerDeclined names a piece that was offered before and declined.
	headerDeclined = "Pyrsia-Declined"
)

const (
	// offerWait is how long an offer waits until there is something to offer.
	offerWait = 2 * time.Second
)

// Server serves peers what this node has.
type Server struct {
	store   *store.Store
	fetcher *Fetcher
	limits  *Limits
	grants  *grants
	log     *slog.Logger
	sent    prometheus.Counter // bytes
	// withhold, unless it is nil, is asked before a blob is served: what it
	// refuses is not.
	withhold func(context.Context, digest.Digest) error
}

// NewServer makes a server and registers its metrics.
func NewServer(s *store.Store, f *Fetcher, withhold func(context.Context, digest.Digest) error, limits *Limits, reg prometheus.Registerer, log *slog.Logger) *Server {
	connected := func(id peer.ID) bool { _, ok := f.network.Peer(id); return ok }
	srv := &Server{store: s, fetcher: f, withhold: withhold, limits: limits, grants: newGrants(connected), log: log,
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pyrsia_transfer_sent_bytes_total", Help: "Bytes of content that were sent to peers.",
		}),
	}
	reg.MustRegister(srv.sent)
	return srv
}

// Register adds the server's paths. How long a peer may take for each part of
// an answer is bounded by the HTTP server (see server.Pace).
//
//	GET  /blobs/sha256/HEX   a blob, or a verified range of one that is on its way
//	POST /pieces/sha256/HEX  of a set of pieces in the body, which one is on offer?
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /blobs/sha256/{hex}", s.blob)
	mux.HandleFunc("POST /pieces/sha256/{hex}", s.offer)
}

func blobOf(w http.ResponseWriter, r *http.Request) (digest.Digest, bool) {
	d := digest.NewDigestFromEncoded(digest.SHA256, r.PathValue("hex"))
	if d.Validate() != nil {
		http.Error(w, "not a SHA-256 digest", http.StatusBadRequest)
		return "", false
	}
	return d, true
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request) {
	d, ok := blobOf(w, r)
	if !ok {
		return
	}
	if s.withheld(w, r, d) {
		return
	}
	wanted := wantedRange(r, d)
	content, size, err := s.open(r.Context(), d, wanted)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			s.log.Error("reading the store", "error", err)
		}
		http.Error(w, "this node does not have it", http.StatusNotFound)
		return
	}
	defer content.Close()
	out := &counted{ResponseWriter: s.limits.writer(r, w, remote(r), size)}
	if start, ok := rangeStart(wanted); ok && start%pieces.Size == 0 {
		done := s.grants.send(d, int(start/pieces.Size))
		defer func() { done(out.n >= min(pieces.Size, size-start)) }()
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Etag", etag(d))
	http.ServeContent(out, r, "", time.Time{}, content)
	s.sent.Add(float64(out.n))
}

// withheld refuses what is withheld, as what is not here: peers ask on.
func (s *Server) withheld(w http.ResponseWriter, r *http.Request, d digest.Digest) bool {
	if s.withhold == nil {
		return false
	}
	err := s.withhold(r.Context(), d)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
	return err != nil
}

// content is a file of which this node has verified what is asked for.
type content interface {
	io.ReadSeekCloser
	Stat() (os.FileInfo, error)
}

// etag names content that never changes.
func etag(d digest.Digest) string { return `"` + d.String() + `"` }

// wantedRange is the requested range; empty for the whole blob. With If-Range
// the range counts only for the content that it names (RFC 9110, section
// 13.1.5).
func wantedRange(r *http.Request, d digest.Digest) string {
	if only := r.Header.Get("If-Range"); only != "" && only != etag(d) {
		return ""
	}
	return r.Header.Get("Range")
}

// open opens a blob, or one that is on its way if the range is verified.
func (s *Server) open(ctx context.Context, d digest.Digest, ranges string) (content, int64, error) {
	var f content
	f, err := s.store.Open(ctx, d)
	if err != nil {
		if active := s.fetcher.download(d); active != nil && active.hasRange(ranges) {
			f, err = active.open(ctx)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func rangeStart(ranges string) (int64, bool) {
	first, _, ok := strings.Cut(strings.TrimPrefix(ranges, "bytes="), "-")
	start, err := strconv.ParseInt(first, 10, 64)
	return start, ok && err == nil && start >= 0
}

// counted counts the bytes of a body.
type counted struct {
	http.ResponseWriter
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadFrom keeps the kernel's way from a file to a socket open.
func (c *counted) ReadFrom(r io.Reader) (int64, error) {
	if l, ok := r.(*io.LimitedReader); ok {
		if file := fileOf(l); file != nil {
			r = &io.LimitedReader{R: file, N: l.N} // sendfile(2) takes an *os.File alone
		}
	}
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}

// remote names the peer that asks: by its identity over libp2p, else by its
// address.
func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// offer answers which of the missing pieces the peer should fetch here.
func (s *Server) offer(w http.ResponseWriter, r *http.Request) {
	d, ok := blobOf(w, r)
	if !ok {
		return
	}
	id, err := peer.Decode(r.RemoteAddr)
	if err != nil {
		http.Error(w, "pieces are offered over libp2p alone", http.StatusForbidden)
		return
	}
	if s.withheld(w, r, d) {
		return
	}
	s.fetcher.interested(d, id)
	size, active := s.source(d)
	if size < 0 {
		http.Error(w, "this node does not have it", http.StatusNotFound)
		return
	}
	want, err := readSet(r, pieces.Count(size))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ask := &asking{blob: d, count: pieces.Count(size), peer: id, client: server.Client(r), want: want, download: active,
		urgent: r.Header.Get(headerUrgent) != "", alone: r.Header.Get(headerAlone) != ""}
	if declined, err := strconv.Atoi(r.Header.Get(headerDeclined)); err == nil {
		s.grants.decline(d, declined, id)
	}
	i, ok := s.grants.wait(r.Context(), ask)
	switch {
	case !ok && active != nil && !active.hasSource():
		http.Error(w, "this node is looking for it too", http.StatusNotFound)
		return
	case !ok:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(offered{i}) // the peer is gone
}

// source is the size of a blob that this node has, wholly or, if the download
// is not nil, in part; -1 if it does not.
func (s *Server) source(d digest.Digest) (int64, *download) {
	if size, ok := s.store.Size(d); ok {
		return size, nil
	}
	if active := s.fetcher.download(d); active != nil {
		return active.blob.Size, active
	}
	return -1, nil
}

func readSet(r *http.Request, n int) (pieces.Set, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, pieces.MaxSet+1))
	if err != nil {
		return nil, fmt.Errorf("reading the set of pieces: %w", err)
	}
	return pieces.ParseSet(data, n)
}
