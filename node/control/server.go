package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Node is what the control API drives.
type Node interface {
	Status(ctx context.Context, since int64) (*Status, error)
	Resolve(ctx context.Context, req ResolveRequest) (*ResolveResponse, error)
	Publish(ctx context.Context, req PublishRequest) (*PublishResponse, error)
	Receipts(ctx context.Context, since int64) (*Receipts, error)
	Find(ctx context.Context, req FindRequest) (*FindResponse, error)
	List(ctx context.Context, req ListRequest) (*ListResponse, error)
	Revoke(ctx context.Context, req RevokeRequest) (*RevokeResponse, error)
	Restore(ctx context.Context, req RestoreRequest) (*RestoreResponse, error)
	Drop(ctx context.Context, req DropRequest) (*DropResponse, error)
}

// Handler serves the control API for n. ServerTLS has already decided who may
// call it: only the holder of the operator's key.
func Handler(n Node) http.Handler {
	mux := http.NewServeMux()
	// The operator polls it to fill the PyrsiaNode's status.
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		if err != nil || since < 0 {
			answer[Status](w, nil, &Error{Reason: ReasonInvalidRequest, Message: "since must be a ledger size"})
			return
		}
		status, err := n.Status(r.Context(), since)
		answer(w, status, err)
	})
	// The operator resolves the tags of an OfficialImageSet.
	mux.HandleFunc("POST /v1/resolve", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.Resolve) })
	// The operator publishes an Artifact.
	mux.HandleFunc("POST /v1/publish", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.Publish) })
	// The operator polls it to show the images that were pulled through a mirror.
	mux.HandleFunc("GET /v1/receipts", serveReceipts(n))
	// The operator looks up an image that was pulled, and checks the proof.
	mux.HandleFunc("POST /v1/find", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.Find) })
	// The operator asks which images an OfficialImageSet selects.
	mux.HandleFunc("POST /v1/list", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.List) })
	// The operator withdraws an Artifact whose spec.state is Revoked.
	mux.HandleFunc("POST /v1/revoke", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.Revoke) })
	// The operator lifts the withdrawal of an Artifact whose spec.state is
	// Restored. The API server decides who may set that: it is a right of its
	// own (docs/permissions.md).
	mux.HandleFunc("POST /v1/restore", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.Restore) })
	// The operator deletes an OfficialImageSet whose deletionPolicy is Delete.
	mux.HandleFunc("POST /v1/drop", func(w http.ResponseWriter, r *http.Request) { serve(w, r, n.Drop) })
	return mux
}

func serve[Req, Resp any](w http.ResponseWriter, r *http.Request, do func(context.Context, Req) (*Resp, error)) {
	var req Req
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		answer[Resp](w, nil, &Error{Reason: ReasonInvalidRequest, Message: fmt.Sprintf("the request's body: %v", err)})
		return
	}
	// Below the client's own time-out, so that it hears the reason.
	ctx, cancel := context.WithTimeout(r.Context(), 25*time.Second)
	defer cancel()
	resp, err := do(ctx, req)
	answer(w, resp, err)
}

func answer[T any](w http.ResponseWriter, resp *T, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		_ = json.NewEncoder(w).Encode(resp) // the caller is gone
		return
	}
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		refusal = &Error{Reason: ReasonInternal, Message: err.Error()}
	}
	status := http.StatusConflict
	switch refusal.Reason {
	case ReasonInvalidRequest, ReasonNotPublisher:
		status = http.StatusBadRequest
	case ReasonInternal:
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(refusal)
}
