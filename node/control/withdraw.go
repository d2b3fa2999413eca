package control

import (
	"context"
	"net/http"
)

// RevokeRequest is the body of POST /v1/revoke: withdraw a digest in an image's
// repository, under every tag and for good, by blocks of their own. The digest is
// that of an artifact or of one platform's manifest. The call is idempotent.
// Publishers only.
type RevokeRequest struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	// Block is the height of the block that the caller knows; -1: none.
	Block  int64  `json:"block"`
	Reason string `json:"reason"`
	// Floor is the newest checkpoint that the operator has verified.
	Floor string `json:"floor,omitempty"`
}

// RevokeResponse is the block that withdraws the image.
type RevokeResponse struct {
	// Block is the one that names the block of the request, as operators of
	// version 0.1.0 want it; without such a block it is Withdrawal.
	Block Block `json:"block"`
	// Withdrawal is the one that withdraws the digest.
	Withdrawal *Block `json:"withdrawal,omitempty"`
	// Tags are images that have the digest, and Indexes those of which it is one
	// platform, as their newest blocks say: at most MaxNamed of both.
	Tags    []string `json:"tags,omitempty"`
	Indexes []string `json:"indexes,omitempty"`
}

// MaxNamed bounds the images that a RevokeResponse names.
const MaxNamed = 100

// RestoreRequest is the body of POST /v1/restore: lift what withdraws a digest
// in an image's repository, so that it can be published again. The call is
// idempotent. Publishers only.
type RestoreRequest struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	Reason string `json:"reason"`
	// Floor is the newest checkpoint that the operator has verified.
	Floor string `json:"floor,omitempty"`
}

// RestoreResponse is the block that lifts it.
type RestoreResponse struct {
	Block Block `json:"block"`
}

// Revoke has the publisher withdraw an image.
func (c *Client) Revoke(ctx context.Context, req RevokeRequest) (*RevokeResponse, error) {
	return call[RevokeResponse](ctx, c, http.MethodPost, "/v1/revoke", req)
}

// Restore has the publisher lift the withdrawal of an image.
func (c *Client) Restore(ctx context.Context, req RestoreRequest) (*RestoreResponse, error) {
	return call[RestoreResponse](ctx, c, http.MethodPost, "/v1/restore", req)
}
