package control

import (
	"context"
	"net/http"
)

// FindRequest is the body of POST /v1/find: which is the newest block that
// records this image with this digest?
type FindRequest struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
}

// FindResponse is the block, with its proof. A node whose ledger has none
// refuses with ReasonNotOnLedger.
type FindResponse struct {
	Block Block `json:"block"`
	// Revocation is the block that withdraws the image, if there is one: that
	// which names its block, if there is one.
	Revocation *Block `json:"revocation,omitempty"`
	// Withdrawal is the block that withdraws the digest in all of its repository,
	// if there is one.
	Withdrawal *Block `json:"withdrawal,omitempty"`
}

// Find asks for the block of an image.
func (c *Client) Find(ctx context.Context, req FindRequest) (*FindResponse, error) {
	return call[FindResponse](ctx, c, http.MethodPost, "/v1/find", req)
}
