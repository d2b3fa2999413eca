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

// refuse answers with an OCI error body. Whatever the cause, content is
// refused with 404 or 403: after a 5xx clients retry for a minute before they
// tell anyone. It returns what it told the client.
func (m *Mirror) refuse(w http.ResponseWriter, r *http.Request, req request, err error) string {
	out, cause := m.refusal(r.Context(), req, err)
	m.metrics.refusals.WithLabelValues(cause).Inc()
	if cause == causeUnavailable && r.Context().Err() == nil {
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

func (m *Mirror) refusal(ctx context.Context, req request, err error) (*refusal, string) {
	if bad, ok := errors.AsType[*refusal](err); ok {
		return bad, causeRequest
	}
	if withdrawn, ok := errors.AsType[*ledger.WithdrawnError](err); ok {
		return &refusal{http.StatusForbidden, "DENIED", withdrawn.Error()}, causeRevoked
	}
	if stale, ok := errors.AsType[*staleError](err); ok {
		return &refusal{http.StatusForbidden, "DENIED", stale.Error()}, causeStale
	}
	if later, ok := errors.AsType[*LaterError](err); ok {
		return &refusal{http.StatusServiceUnavailable, "UNAVAILABLE", later.Error()}, causeLater
	}
	cause := causeUnavailable
	if errors.Is(err, errNotVouched) {
		cause = causeNotOnLedger
	}
	if req.kind == "referrers" && cause == causeUnavailable {
		// Clients take 404 for a registry that has no such API, and so the
		// image for one that nothing is attached to.
		return &refusal{http.StatusServiceUnavailable, "UNAVAILABLE", m.explain(ctx, req, err)}, cause
	}
	return &refusal{http.StatusNotFound, unknown[req.kind], m.explain(ctx, req, err)}, cause
}

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
	case errors.Is(err, errNotVouched):
		return fmt.Sprintf("%s is not on the ledger %s (%d blocks%s): add it to an OfficialImageSet of the publisher to have it published",
			name, head.Origin, head.Tree.N, m.age(ctx, head))
	case errors.Is(err, errUnsure):
		then := "ask again later"
		if req.kind == "blob" {
			then = "ask for the manifest of its image first, or again later"
		}
		return fmt.Sprintf("%s: %v: %s", name, err, then)
	case errors.Is(err, transfer.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s is on the ledger, but no node that this one can reach has the content: %v", name, err)
	default:
		return fmt.Sprintf("%s cannot be served now: %v", name, err)
	}
}

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
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}
