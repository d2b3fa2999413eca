package tlogmirror

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/pyrsia/pyrsia-operator/node/internal/answers"
	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
)

// Submission serves the submission prefix, which the caller has cut off. It wants a
// server that bounds connections and the time for a body, such as node/server's.
func (c *Cosigner) Submission() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", c.serveAddCheckpoint)
	mux.HandleFunc("POST /sign-subtree", c.serveSignSubtree)
	if c.options.Role == quorum.Mirror {
		mux.HandleFunc("POST /add-entries", c.serveAddEntries)
	}
	return mux
}

// Monitoring serves the monitoring prefix, which the caller has cut off. It is another
// one for each cosigner.
func (c *Cosigner) Monitoring() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{hash}/checkpoint", c.serveCheckpoint)
	if c.options.Role == quorum.Mirror {
		mux.HandleFunc("GET /{hash}/tile/{path...}", c.serveTile)
	}
	return answers.New().Handler(mux)
}

// httpError is a refusal that the specifications give a status code.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

// codes are the status codes of what a record refuses.
var codes = map[quorum.Reason]int{
	quorum.Malformed:   http.StatusBadRequest,
	quorum.Stale:       http.StatusConflict,
	quorum.Contradicts: http.StatusUnprocessableEntity,
	// A checkpoint that the keys have cosigned and their record does not know.
	quorum.StateLost: http.StatusForbidden,
}

// fail answers with an error. What is not the client's is logged, and not told.
func (c *Cosigner) fail(w http.ResponseWriter, err error) {
	if e, ok := errors.AsType[*httpError](err); ok {
		http.Error(w, e.text, e.code)
		return
	}
	refused, ok := errors.AsType[*quorum.Refusal](err)
	code := http.StatusInternalServerError
	if ok {
		code = codes[refused.Reason]
	}
	switch {
	case code == http.StatusConflict:
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, strconv.FormatInt(refused.Size, 10)+"\n") // the client is gone
	case code == http.StatusInternalServerError || code == 0:
		c.options.Log.Error("a cosigner cannot do what it was asked for", "error", err)
		http.Error(w, "this cosigner cannot do that now: its log says why", http.StatusInternalServerError)
	default:
		if refused.Reason == quorum.StateLost {
			c.options.Log.Error("a cosigner's record is older than what its keys have signed: replace the member by one with new keys", "alarm", true, "error", err)
		}
		http.Error(w, fmt.Sprintf("refused: %v", refused), code)
	}
}

// writeLines answers with signature lines.
func writeLines(w http.ResponseWriter, lines string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, lines) // the client is gone
}
