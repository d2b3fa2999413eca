// Package mirror is the registry side of a node: the read side of the OCI
// distribution-spec 1.1. It hands out only what the ledger vouches for.
package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// answerTimeout bounds how long a client waits for the first byte. Clients
	// give a mirror up after 30 s and more.
	answerTimeout = 20 * time.Second
	// maxManifest is the limit of the OCI distribution-spec for manifests.
	maxManifest = 4 << 20
	// maxPage bounds a listing without n.
	maxPage = 1000
	// defaultRegistry is meant by clients that name none (dockerd).
	defaultRegistry = "docker.io"
)

// Mirror answers container clients.
type Mirror struct {
	ledger   *ledger.Ledger
	fetcher  *transfer.Fetcher
	voucher  *voucher
	log      *slog.Logger
	requests *prometheus.CounterVec
}

// New makes a mirror and registers its metrics.
func New(l *ledger.Ledger, f *transfer.Fetcher, reg prometheus.Registerer, log *slog.Logger) (*Mirror, error) {
	lists, err := lru.New[digest.Digest, map[digest.Digest]pieces.Blob](maxLists)
	if err != nil {
		return nil, fmt.Errorf("starting the mirror: %w", err)
	}
	m := &Mirror{
		ledger: l, fetcher: f, log: log,
		voucher: &voucher{ledger: l, fetcher: f, lists: lists},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrsia_mirror_requests_total", Help: "Requests of container clients, by kind and status code.",
		}, []string{"kind", "code"}),
	}
	reg.MustRegister(m.requests)
	return m, nil
}

// request is a parsed request of a client.
type request struct {
	kind       string // base, manifest, blob, tags, catalog, referrers
	repository string // canonical: "docker.io/library/alpine"
	reference  string // tag or digest
}

// ServeHTTP implements http.Handler.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, code: http.StatusOK}
	rec.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	req, err := parse(r)
	if err == nil {
		err = m.serve(rec, r, req)
	}
	if err != nil {
		m.refuse(rec, r, req, err)
	}
	m.requests.WithLabelValues(req.kind, strconv.Itoa(rec.code)).Inc()
}

// recorder remembers the status code.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// ReadFrom keeps the kernel's way from a file to a socket open.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) { return io.Copy(r.ResponseWriter, src) }

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (m *Mirror) serve(w http.ResponseWriter, r *http.Request, req request) error {
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
		return m.referrers(ctx, w, req)
	default:
		return m.catalog(w, r)
	}
}

func (m *Mirror) manifest(ctx context.Context, w http.ResponseWriter, r *http.Request, req request) error {
	var b vouched
	var err error
	if d := digest.Digest(req.reference); d.Validate() == nil {
		b, err = m.voucher.digest(ctx, req.repository, d)
	} else {
		image, perr := ledger.ParseImage(req.repository + ":" + req.reference)
		if perr != nil {
			return &refusal{http.StatusBadRequest, "NAME_INVALID", perr.Error()}
		}
		b, err = m.voucher.tag(ctx, image)
	}
	if err != nil {
		return err
	}
	if !isManifest(b.MediaType) {
		return errNotVouched // a layer is not a manifest, whatever its digest
	}
	setContent(w, b)
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
		return nil
	}
	data, err := m.fetcher.ReadAll(ctx, b.Blob, b.list, maxManifest)
	if err != nil {
		return err
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return nil
}

func (m *Mirror) blob(ctx context.Context, w http.ResponseWriter, r *http.Request, req request) error {
	b, err := m.voucher.digest(ctx, req.repository, digest.Digest(req.reference))
	if err != nil {
		return err
	}
	b.MediaType = "application/octet-stream"
	if r.Method == http.MethodHead {
		setContent(w, b)
		w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
		return nil
	}
	content, err := m.fetcher.Open(ctx, b.Blob, b.list)
	if err != nil {
		return err
	}
	defer content.Close()
	setContent(w, b)
	http.ServeContent(w, r, "", time.Time{}, content)
	return nil
}

// setContent describes content that a digest names and that never changes.
func setContent(w http.ResponseWriter, b vouched) {
	h := w.Header()
	h.Set("Content-Type", b.MediaType)
	h.Set("Docker-Content-Digest", b.Digest.String())
	h.Set("Etag", `"`+b.Digest.String()+`"`)
	h.Set("Accept-Ranges", "bytes")
}

func isManifest(mediaType string) bool {
	return strings.Contains(mediaType, ".manifest.") || strings.Contains(mediaType, "image.index.")
}

func (m *Mirror) tags(w http.ResponseWriter, r *http.Request, req request) error {
	n, last, err := page(r)
	if err != nil {
		return err
	}
	some, err := m.ledger.Tags(r.Context(), req.repository, "", 1)
	if err != nil {
		return err
	}
	if len(some) == 0 {
		return errNotVouched
	}
	tags, err := m.ledger.Tags(r.Context(), req.repository, last, n+1)
	if err != nil {
		return err
	}
	tags = cut(w, r, tags, n)
	_, name, _ := strings.Cut(req.repository, "/")
	writeJSON(w, http.StatusOK, map[string]any{"name": name, "tags": tags})
	return nil
}

func (m *Mirror) catalog(w http.ResponseWriter, r *http.Request) error {
	n, last, err := page(r)
	if err != nil {
		return err
	}
	prefix := registry(r) + "/"
	var names []string
	for _, name := range m.ledger.Repositories() {
		if short, ok := strings.CutPrefix(name, prefix); ok && short > last {
			names = append(names, short)
		}
	}
	names = cut(w, r, names, n)
	writeJSON(w, http.StatusOK, map[string]any{"repositories": names})
	return nil
}

// page reads n and last (OCI distribution-spec, "Content Discovery").
func page(r *http.Request) (n int, last string, err error) {
	q := r.URL.Query()
	n = maxPage
	if s := q.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return 0, "", &refusal{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a number that is not negative"}
		}
	}
	return min(n, maxPage), q.Get("last"), nil
}

// cut keeps n names of a list that may have more, and links to the rest.
func cut(w http.ResponseWriter, r *http.Request, names []string, n int) []string {
	if len(names) > n {
		names = names[:n]
		if n > 0 {
			next := *r.URL
			q := next.Query()
			q.Set("n", strconv.Itoa(n))
			q.Set("last", names[n-1])
			next.RawQuery = q.Encode()
			w.Header().Set("Link", "<"+next.RequestURI()+`>; rel="next"`)
		}
	}
	return slices.Concat([]string{}, names) // never null
}

// referrers answers that nothing refers to an image: referrers are not copied.
func (m *Mirror) referrers(ctx context.Context, w http.ResponseWriter, req request) error {
	if _, err := m.voucher.digest(ctx, req.repository, digest.Digest(req.reference)); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	_, err := w.Write([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
	return err
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}

// refusal is an error with its place in the OCI error codes.
type refusal struct {
	status  int
	code    string
	message string
}

func (e *refusal) Error() string { return e.message }

// refuse answers with an OCI error body. Whatever the cause, a blob is refused
// with 404: after a 5xx clients retry for a minute before they tell anyone.
func (m *Mirror) refuse(w http.ResponseWriter, r *http.Request, req request, err error) {
	out, ok := errors.AsType[*refusal](err)
	if revoked, is := errors.AsType[*revokedError](err); is {
		out, ok = &refusal{http.StatusForbidden, "DENIED", revoked.Error()}, true
	}
	if !ok {
		code := "MANIFEST_UNKNOWN"
		if req.kind == "blob" {
			code = "BLOB_UNKNOWN"
		}
		out = &refusal{http.StatusNotFound, code, m.explain(req, err)}
		if !errors.Is(err, errNotVouched) && r.Context().Err() == nil {
			m.log.Warn("refused", "kind", req.kind, "repository", req.repository, "reference", req.reference, "error", err)
		}
	}
	for _, h := range []string{"Content-Type", "Docker-Content-Digest", "Etag", "Accept-Ranges", "Content-Length"} {
		w.Header().Del(h)
	}
	writeJSON(w, out.status, map[string]any{"errors": []map[string]string{{"code": out.code, "message": out.message}}})
}

func (m *Mirror) explain(req request, err error) string {
	name := req.repository + ":" + req.reference
	if strings.Contains(req.reference, ":") {
		name = req.repository + "@" + req.reference
	}
	head, ok := m.ledger.Head()
	switch {
	case !ok:
		return fmt.Sprintf("%s: this Pyrsia node has no ledger yet: it has not reached a node of its network", name)
	case errors.Is(err, errNotVouched):
		return fmt.Sprintf("%s is not on the ledger %s (%d blocks): add it to an OfficialImageSet of the publisher to have it published",
			name, head.Origin, head.Tree.N)
	case errors.Is(err, transfer.ErrUnavailable):
		return fmt.Sprintf("%s is on the ledger, but no node that this one can reach has the content: %v", name, err)
	default:
		return fmt.Sprintf("%s cannot be served now: %v", name, err)
	}
}
