package mirror

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// Healer brings back from peers what was corrupt on this node's disk.
type Healer struct{ resolver *resolver }

// NewHealer makes a healer for a node of either role.
func NewHealer(l *replica.Ledger, f *transfer.Fetcher) (*Healer, error) {
	v, err := newResolver(l, f)
	return &Healer{v}, err
}

// Heal fetches a piece list or a blob that the ledger vouches for. What it
// does not vouch for (any more) is not missed, and no error.
func (h *Healer) Heal(ctx context.Context, d digest.Digest) error {
	blocks, err := h.resolver.ledger.ByDigest(ctx, d, 1)
	if err != nil {
		return err
	}
	if len(blocks) > 0 && blocks[0].Artifact.Pieces == d {
		_, err := h.resolver.fetcher.Small(ctx, d, pieces.MaxList)
		return err
	}
	found, err := h.find(ctx, d)
	if err != nil {
		return ignoreRefusal(err)
	}
	return h.resolver.fetcher.Bring(ctx, found.Blob, found.list)
}

// find looks for the block that vouches for a digest in all repositories.
func (h *Healer) find(ctx context.Context, d digest.Digest) (resolved, error) {
	refusal := errNotOnLedger
	for _, repository := range h.resolver.ledger.Repositories() {
		found, err := h.resolver.digest(ctx, repository, d)
		if err == nil {
			return found, nil
		}
		if ignoreRefusal(err) != nil {
			refusal = err
		}
		if err := ctx.Err(); err != nil {
			return resolved{}, fmt.Errorf("healing %s: %w", d, err)
		}
	}
	return resolved{}, refusal
}
