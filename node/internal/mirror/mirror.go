// Package mirror is the registry side of a node: the read side of the OCI
// distribution-spec 1.1. It serves only what is on the ledger. It may import
// the ledger, the store, the transfer and httpsend, and no network of its own;
// node serves it.
package mirror

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/internal/httpsend"
	"github.com/pyrsia/pyrsia-operator/node/internal/receipts"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	// answerTimeout bounds how long a client waits for the first byte. Clients
	// give a mirror up after 30 s and more.
	answerTimeout = 20 * time.Second
	// maxManifest is the limit of the OCI distribution-spec for manifests.
	maxManifest = 4 << 20
	// Manifests of at most this many bytes are kept in memory.
	maxCached = 64 << 10
	cached    = 512
)

// Config is what a mirror works with.
type Config struct {
	Ledger   *replica.Ledger
	Fetcher  *transfer.Fetcher
	Receipts *receipts.Book
	Metrics  prometheus.Registerer
	Log      *slog.Logger
	// AccessLog, if there is one, has a line for each request.
	AccessLog *slog.Logger
	// Stale, if set, says why tags must not be resolved now: the ledger may have
	// moved them, or withdrawn what they point to. It returns nil if the ledger is
	// fresh.
	Stale func() error
	// OnMiss, if there is one, is asked before a miss is refused.
	OnMiss OnMiss
	// Fallback says that clients go on to the registry with what is not on the
	// ledger. Otherwise they have no other registry, and get the reason in the
	// way that their users see.
	Fallback bool
}

// Mirror answers container clients.
type Mirror struct {
	Config
	resolver  *resolver
	metrics   *metrics
	manifests *lru.Cache[digest.Digest, []byte] // verified
	subjects  *lru.Cache[digest.Digest, []referrer]
	outage    atomic.Int64 // when content was out of reach last, Unix time in ns
	asked     *askedBook
}

// New makes a mirror and registers its metrics.
func New(c Config) (*Mirror, error) {
	v, err := newResolver(c.Ledger, c.Fetcher)
	if err != nil {
		return nil, fmt.Errorf("starting the mirror: %w", err)
	}
	manifests, err := lru.New[digest.Digest, []byte](cached)
	if err != nil {
		return nil, fmt.Errorf("starting the mirror: %w", err)
	}
	subjects, err := lru.New[digest.Digest, []referrer](maxLists)
	if err != nil {
		return nil, fmt.Errorf("starting the mirror: %w", err)
	}
	return &Mirror{Config: c, resolver: v, metrics: newMetrics(c.Metrics), manifests: manifests, subjects: subjects, asked: newAskedBook(c.Metrics)}, nil
}

// Asked tells when containerd asked last, by registry.
func (m *Mirror) Asked() client.Asked { return m.asked.asked() }

// ServeHTTP implements http.Handler.
func (m *Mirror) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == client.AskedPath {
		m.asked.serve(rw)
		return
	}
	start := time.Now()
	w := httpsend.To(rw)
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	req, err := parse(r)
	m.asked.note(r, req)
	if err == nil {
		err = m.serve(w, r, req)
	}
	refused := ""
	if err != nil {
		refused = m.refuse(w, r, req, err)
	}
	if w.Code == 0 { // an answer without a body
		w.Code, w.First = http.StatusOK, time.Now()
	}
	m.metrics.requests.WithLabelValues(req.kind, strconv.Itoa(w.Code)).Inc()
	m.metrics.firstByte.WithLabelValues(req.kind).Observe(w.First.Sub(start).Seconds())
	if m.AccessLog != nil {
		m.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("client", clientOf(r)), slog.String("method", r.Method), slog.String("uri", r.RequestURI),
			slog.Int("status", w.Code), slog.Int64("bytes", w.Bytes), slog.Duration("took", time.Since(start)),
			slog.String("agent", r.UserAgent()), slog.String("refused", refused))
	}
}

func (m *Mirror) serve(w *httpsend.Writer, r *http.Request, req request) error {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	switch req.kind {
	case "base":
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	case "manifest":
		return m.manifest(ctx, w, r, req)
	case "blob":
		return m.blob(ctx, w, r, req)
	case "tags":
		return m.tags(w, r, req)
	case "referrers":
		return m.referrers(ctx, w, r, req)
	default:
		return m.catalog(w, r)
	}
}

func (m *Mirror) manifest(ctx context.Context, w *httpsend.Writer, r *http.Request, req request) error {
	v, byTag, err := m.resolve(ctx, req, r.Method == http.MethodHead)
	if err != nil {
		return err
	}
	if !isManifest(v.MediaType) {
		return errNotOnLedger // a layer is not a manifest, whatever its digest
	}
	setContent(w, v)
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(v.Size, 10))
		if byTag {
			m.record(r, v, true)
		}
		return nil
	}
	data, source, err := m.content(ctx, v)
	if err != nil {
		return err
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	m.metrics.sent(source, w.Bytes)
	m.record(r, v, false)
	return nil
}

// resolve finds the manifest that a tag or digest means: if it is only to be
// described, by the ledger alone where that says enough.
func (m *Mirror) resolve(ctx context.Context, req request, describe bool) (v resolved, byTag bool, err error) {
	if strings.Contains(req.reference, ":") {
		find := m.resolver.digest
		if describe {
			find = m.resolver.describe
		}
		v, err = find(ctx, req.repository, digest.Digest(req.reference))
		return v, false, err
	}
	image, err := ledger.ParseImage(req.repository + ":" + req.reference)
	if err != nil {
		return resolved{}, true, &refusal{http.StatusBadRequest, "NAME_INVALID", err.Error()}
	}
	if m.Stale != nil {
		if err := m.Stale(); err != nil {
			return resolved{}, true, &staleError{err}
		}
	}
	v, err = m.tag(ctx, image, describe)
	return v, true, err
}

// content brings a manifest, from memory if it is there.
func (m *Mirror) content(ctx context.Context, v resolved) (data []byte, source string, err error) {
	if data, ok := m.manifests.Get(v.Digest); ok {
		return data, "memory", nil
	}
	source = "store"
	if !m.Fetcher.Has(v.Digest) {
		source = "peers"
	}
	data, err = m.Fetcher.ReadAll(ctx, v.Blob, v.list, maxManifest)
	if err != nil {
		return nil, "", err
	}
	if digest.FromBytes(data) != v.Digest {
		return nil, "", fmt.Errorf("manifest %s changed while it was read", v.Digest)
	}
	if len(data) <= maxCached {
		m.manifests.Add(v.Digest, data)
	}
	return data, source, nil
}

// record notes that a client was given an artifact or its digest. The manifests
// of an index's platforms do not count as pulls.
func (m *Mirror) record(r *http.Request, v resolved, again bool) {
	a := v.block.Artifact
	m.Receipts.Record(receipts.Pull{
		Image: a.Artifact, Digest: a.Digest.String(), Block: v.block.Height,
		Again: again || v.Digest != a.Digest, Client: clientOf(r), Agent: r.UserAgent(),
	}, time.Now())
}

func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func (m *Mirror) blob(ctx context.Context, w *httpsend.Writer, r *http.Request, req request) error {
	v, err := m.resolver.digest(ctx, req.repository, digest.Digest(req.reference))
	if err != nil {
		return err
	}
	v.MediaType = "application/octet-stream"
	if r.Method == http.MethodHead {
		setContent(w, v)
		w.Header().Set("Content-Length", strconv.FormatInt(v.Size, 10))
		return nil
	}
	content, err := m.Fetcher.Open(ctx, v.Blob, v.list)
	if err != nil {
		return err
	}
	defer content.Close()
	setContent(w, v)
	source := "store"
	if _, ok := content.(*store.Blob); !ok {
		source = "peers"
		content = &early{Reader: content, w: w}
	}
	http.ServeContent(w, r, "", time.Time{}, content)
	m.metrics.sent(source, w.Bytes)
	return nil
}

// early sends the header before the first byte of the content is there: over a
// slow link that takes longer than clients wait for the header.
type early struct {
	transfer.Reader
	w    *httpsend.Writer
	sent bool
}

func (e *early) Read(p []byte) (int, error) {
	if !e.sent && e.w.Code != 0 {
		e.sent = true
		e.w.Flush()
	}
	return e.Reader.Read(p)
}

// setContent describes content that a digest names and that never changes.
func setContent(w http.ResponseWriter, v resolved) {
	h := w.Header()
	h.Set("Content-Type", v.MediaType)
	h.Set("Docker-Content-Digest", v.Digest.String())
	h.Set("Etag", `"`+v.Digest.String()+`"`)
	h.Set("Accept-Ranges", "bytes")
}

func isManifest(mediaType string) bool {
	return strings.Contains(mediaType, ".manifest.") || strings.Contains(mediaType, "image.index.")
}
