package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// refusal is an error with its place in the OCI error codes.
type refusal struct {
	status  int
	code    string
	message string
}

func (e *refusal) Error() string { return e.message }

// unknown are the codes for what is not there.
var unknown = map[string]string{
	"manifest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN", "tags": "NAME_UNKNOWN", "referrers": "MANIFEST_UNKNOWN",
}

const (
	// codeRefused is for what is refused by the publisher's will or the ledger's.
	// Of the codes that clients know, it is the one that none of them rewrites
	// ("may require docker login") or tries again.
	codeRefused     = "UNSUPPORTED"
	codeUnavailable = "UNAVAILABLE"
)

// refuse answers with an OCI error body, and returns what it told the client.
func (m *Mirror) refuse(w http.ResponseWriter, r *http.Request, req request, err error) string {
	out, cause := m.refusal(r, req, err)
	m.metrics.refusals.WithLabelValues(cause).Inc()
	if cause == causeUnavailable && r.Context().Err() == nil {
		if errors.Is(err, transfer.ErrUnavailable) {
			m.outage.Store(time.Now().UnixNano())
		}
		m.Log.Warn("refused", "kind", req.kind, "repository", req.repository, "reference", req.reference, "error", err)
	}
	if later, ok := errors.AsType[*LaterError](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(later.After.Seconds()+0.999)))
	}
	for _, h := range []string{"Content-Type", "Docker-Content-Digest", "Etag", "Accept-Ranges", "Content-Length"} {
		w.Header().Del(h)
	}
	writeJSON(w, out.status, map[string]any{"errors": []map[string]string{{"code": out.code, "message": out.message}}})
	return out.message
}

// Unavailable tells whether something that is on the ledger was refused since
// then because no node that has it could be reached.
func (m *Mirror) Unavailable(since time.Time) bool { return m.outage.Load() > since.UnixNano() }

// staleError refuses a tag while the ledger is too old.
type staleError struct{ error }

// The causes of refusals, as the metric has them.
const (
	causeRequest     = "bad-request"
	causeNotOnLedger = "not-on-ledger"
	causeRevoked     = "revoked"
	causeUnavailable = "unavailable"
	causeLater       = "later"
	causeStale       = "stale"
)

// refusal chooses the status so that the reason is seen. Of a 404 to HEAD
// containerd says "not found"; after a 403 its newer versions, dockerd with
// containerd's store and BuildKit ask again by GET, and show the message. They
// name the registry by ns=. Clients that do not are shown a 404's message, and
// one that may go on to the registry is to see "not found" there, and not here.
func (m *Mirror) refusal(r *http.Request, req request, err error) (*refusal, string) {
	if bad, ok := errors.AsType[*refusal](err); ok {
		return bad, causeRequest
	}
	if withdrawn, ok := errors.AsType[*ledger.WithdrawnError](err); ok {
		return &refusal{http.StatusForbidden, codeRefused, withdrawn.Error()}, causeRevoked
	}
	if stale, ok := errors.AsType[*staleError](err); ok {
		return &refusal{http.StatusForbidden, codeRefused, stale.Error()}, causeStale
	}
	strict := !m.Fallback && namesRegistry(r)
	if later, ok := errors.AsType[*LaterError](err); ok {
		if strict {
			return &refusal{http.StatusForbidden, codeRefused, later.Error()}, causeLater
		}
		return &refusal{http.StatusServiceUnavailable, codeUnavailable, later.Error()}, causeLater
	}
	message := m.explain(r.Context(), req, err)
	if _, ok := m.Ledger.Head(); !ok || !errors.Is(err, errNotOnLedger) {
		return outage(r, req, message), causeUnavailable
	}
	if strict {
		return &refusal{http.StatusForbidden, codeRefused, message}, causeNotOnLedger
	}
	return &refusal{http.StatusNotFound, unknown[req.kind], message}, causeNotOnLedger
}

// outage refuses content that should be there. 502 is the only status of an
// outage that containerd does not retry: it tries 500, 503 and 504 twice, 408
// and 429 up to five times. Clients without ns= get 404 for a blob: dockerd
// tries each layer again for more than a minute after a 5xx, and podman goes on
// to the next mirror only after a 404 with this code.
func outage(r *http.Request, req request, message string) *refusal {
	if req.kind == "blob" && !namesRegistry(r) {
		return &refusal{http.StatusNotFound, unknown[req.kind], message}
	}
	return &refusal{http.StatusBadGateway, codeUnavailable, message}
}

// namesRegistry tells whether the client says whose mirror it thinks this is.
func namesRegistry(r *http.Request) bool { return r.URL.Query().Get("ns") != "" }

func (m *Mirror) explain(ctx context.Context, req request, err error) string {
	name := req.repository + ":" + req.reference
	switch {
	case req.kind == "tags":
		name = req.repository
	case strings.Contains(req.reference, ":"):
		name = req.repository + "@" + req.reference
	}
	head, ok := m.Ledger.Head()
	switch {
	case !ok:
		return fmt.Sprintf("%s: this Pyrsia node has no ledger yet: it has not reached a node of its network", name)
	case errors.Is(err, errNotOnLedger):
		return fmt.Sprintf("%s is not on the ledger %s (%d blocks%s): add it to an OfficialImageSet of the publisher to have it published",
			name, head.Origin, head.Tree.N, m.age(ctx, head))
	case errors.Is(err, errUnsure):
		then := "ask again later"
		if req.kind == "blob" {
			then = "ask for the manifest of its image first, or again later"
		}
		return fmt.Sprintf("%s: %s: %s", name, oneLine(err), then)
	case errors.Is(err, transfer.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s is on the ledger, but no node that this one can reach has the content: %s", name, oneLine(err))
	default:
		return fmt.Sprintf("%s cannot be served now: %v", name, err)
	}
}

// oneLine is what an error says that joins several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// age says how old the ledger's newest block is.
func (m *Mirror) age(ctx context.Context, head ledger.Checkpoint) string {
	newest, err := m.Ledger.Entry(ctx, head.Tree.N-1)
	if err != nil {
		return ""
	}
	var at time.Time
	switch {
	case newest.Artifact != nil:
		at = newest.Artifact.Time
	case newest.Revocation != nil:
		at = newest.Revocation.Time
	case newest.Withdrawal != nil:
		at = newest.Withdrawal.Time
	case newest.Restoration != nil:
		at = newest.Restoration.Time
	default:
		return ""
	}
	return fmt.Sprintf(", the newest %s old", max(0, time.Since(at)).Round(time.Second))
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}
