package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// maxRevoked bounds the blocks of one image that are withdrawn together.
const maxRevoked = 256

// Revoke withdraws an image's block, and with it every other block that
// records the same digest for the image: a tag may have come back to it.
func (p *Publisher) Revoke(ctx context.Context, req control.RevokeRequest) (*control.RevokeResponse, error) {
	image, err := ledger.ParseImage(req.Image)
	if err != nil {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
	}
	if err := p.checkFloor(ctx, req.Floor); err != nil {
		return nil, err
	}
	wanted := int64(-1)
	for newest := int64(-1); ; { // again, if meanwhile there came one more
		blocks, err := p.Writer.History(ctx, image, maxRevoked)
		if err != nil {
			return nil, err
		}
		if len(blocks) == 0 || blocks[0].Height == newest {
			break
		}
		newest = blocks[0].Height
		for _, b := range blocks {
			if string(b.Artifact.Digest) != req.Digest {
				continue
			}
			height, err := p.Writer.Revoke(ctx, b.Height, req.Reason, time.Now())
			if err != nil {
				return nil, fmt.Errorf("revoking block %d: %w", b.Height, err)
			}
			if b.Height == req.Block {
				wanted = height
			}
		}
	}
	if wanted < 0 {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest,
			Message: fmt.Sprintf("block %d does not record %s@%s", req.Block, image, req.Digest)}
	}
	resp, err := p.block(ctx, wanted)
	if err != nil {
		return nil, errors.Join(errors.New("the revocation is on the ledger"), err)
	}
	p.Log.Warn("revoked", "image", image.String(), "digest", req.Digest, "block", wanted, "reason", req.Reason)
	return &control.RevokeResponse{Block: *resp.Block}, nil
}
