package control

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// MaxReceipts bounds the receipts in one answer.
const MaxReceipts = 1000

// Receipts is the answer of GET /v1/receipts?since=SEQUENCE: the artifacts
// that the node has handed out to container clients.
type Receipts struct {
	// Receipts that are newer than the request's since, in the order of their
	// sequence, at most MaxReceipts: a caller that gets that many asks again
	// with the last one's sequence.
	Receipts []Receipt `json:"receipts"`
}

// Receipt says that clients have pulled an artifact from the node.
type Receipt struct {
	// Sequence grows with each change of any receipt of the node.
	Sequence int64 `json:"sequence"`
	// Image is the canonical name, "docker.io/library/alpine:3.20". For a pull
	// by digest it is the name under which the newest block recorded it.
	Image string `json:"image"`
	// Digest is that of the artifact: of the top manifest or index.
	Digest string `json:"digest"`
	// Block is the height of the block that vouched for it.
	Block int64 `json:"block"`
	// Pulls counts how often it was handed out.
	Pulls       int64     `json:"pulls"`
	FirstPulled time.Time `json:"firstPulled"`
	LastPulled  time.Time `json:"lastPulled"`
	// Client is the address of the client that pulled last, and Agent what
	// that client calls itself.
	Client string `json:"client,omitempty"`
	Agent  string `json:"agent,omitempty"`
}

func serveReceipts(n Node) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		if err != nil || since < 0 {
			answer[Receipts](w, nil, &Error{Reason: ReasonInvalidRequest, Message: "since must be a receipt's sequence, or 0"})
			return
		}
		receipts, err := n.Receipts(r.Context(), since)
		answer(w, receipts, err)
	}
}

// Receipts asks for the pulls that were recorded after a sequence.
func (c *Client) Receipts(ctx context.Context, since int64) (*Receipts, error) {
	return call[Receipts](ctx, c, http.MethodGet, "/v1/receipts?since="+strconv.FormatInt(since, 10), nil)
}
