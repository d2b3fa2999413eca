package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Revoke withdraws a digest in an image's repository, under every tag.
func (p *Publisher) Revoke(ctx context.Context, req control.RevokeRequest) (*control.RevokeResponse, error) {
	image, d, err := p.withdrawal(ctx, req.Image, req.Digest, req.Floor)
	if err != nil {
		return nil, err
	}
	wanted, err := p.blockOf(ctx, image, d, req.Block)
	if err != nil {
		return nil, err
	}
	if err := p.mayWithdraw(ctx, image, d); err != nil {
		return nil, err
	}
	height, err := p.Writer.RevokeDigest(ctx, image.Name(), d, req.Reason, time.Now())
	if err != nil {
		return nil, fmt.Errorf("withdrawing %s@%s: %w", image.Name(), d, err)
	}
	p.Log.Warn("withdrawn", "repository", image.Name(), "digest", d, "block", height, "reason", req.Reason)
	resp, err := p.revoked(ctx, height, wanted)
	if err == nil {
		resp.Tags, resp.Indexes, err = p.named(ctx, image.Name(), d)
	}
	if err != nil {
		return nil, errors.Join(errors.New("the withdrawal is on the ledger"), err)
	}
	return resp, nil
}

const (
	// aheadAtOnce and aheadEvery bound the withdrawals of digests that are in no
	// block: anybody can think of any number of them, and each is a block for good.
	aheadAtOnce = 100
	aheadEvery  = time.Minute
)

// mayWithdraw refuses for now to withdraw what was not published, if much of that
// was withdrawn lately. What is on the ledger can be withdrawn at any time, and what
// is withdrawn takes no further block.
func (p *Publisher) mayWithdraw(ctx context.Context, image ledger.Image, d digest.Digest) error {
	_, err := p.Writer.Standing(ctx, image.Name(), d)
	if err == nil || !errors.Is(err, ledger.ErrNotFound) {
		if _, withdrawn := errors.AsType[*ledger.WithdrawnError](err); withdrawn {
			return nil
		}
		return err
	}
	if by, err := p.Writer.Withdrawal(ctx, image.Name(), d); by != nil || err != nil {
		return err
	}
	turn := p.ahead.Reserve()
	if wait := turn.Delay(); wait > 0 {
		turn.Cancel()
		return &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: int(wait.Seconds()) + 1,
			Message: fmt.Sprintf("no block of the ledger has %s in %s, and %d digests that were not published were withdrawn lately: it takes its turn, or is withdrawn at once when it is published", d, image.Name(), aheadAtOnce)}
	}
	return nil
}

// withdrawal checks what all requests about a withdrawal have.
func (p *Publisher) withdrawal(ctx context.Context, name, d, floor string) (ledger.Image, digest.Digest, error) {
	image, err := ledger.ParseImage(name)
	if err == nil {
		err = ledger.CheckDigest(digest.Digest(d))
	}
	if err != nil {
		return image, "", &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
	}
	return image, digest.Digest(d), p.checkFloor(ctx, floor)
}

// blockOf is the block that a request names, which must record the image with
// the digest; nil if it names none.
func (p *Publisher) blockOf(ctx context.Context, image ledger.Image, d digest.Digest, height int64) (*ledger.Entry, error) {
	if height < 0 {
		return nil, nil
	}
	e, err := p.Writer.Entry(ctx, height)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return nil, err
	}
	if err != nil || e.Artifact == nil || e.Artifact.Name() != image.String() || e.Artifact.Digest != d {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest,
			Message: fmt.Sprintf("block %d does not record %s@%s", height, image, d)}
	}
	return e, nil
}

// revoked reads the blocks that withdraw a digest, and the block that records it.
func (p *Publisher) revoked(ctx context.Context, height int64, recorded *ledger.Entry) (*control.RevokeResponse, error) {
	all, err := p.block(ctx, height)
	if err != nil {
		return nil, err
	}
	resp := &control.RevokeResponse{Block: *all.Block, Withdrawal: all.Block}
	if recorded == nil {
		return resp, nil
	}
	by, err := p.Writer.RevokedBy(ctx, recorded)
	if err != nil {
		return nil, err
	}
	one, err := p.block(ctx, by.Height)
	if err != nil {
		return nil, err
	}
	resp.Block = *one.Block
	return resp, nil
}

// named are the images of a repository whose newest block is of a digest, or
// has it as one of its platforms.
func (p *Publisher) named(ctx context.Context, repository string, d digest.Digest) (tags, indexes []string, err error) {
	for e, err := range p.Writer.Naming(ctx, d) {
		if err != nil {
			return nil, nil, err
		}
		image, err := ledger.ParseImage(e.Artifact.Artifact)
		if err != nil {
			return nil, nil, err
		}
		latest, err := p.Writer.Latest(ctx, image)
		if err != nil {
			return nil, nil, err
		}
		if image.Name() != repository || latest.Height != e.Height {
			continue
		}
		if e.Artifact.Digest == d {
			tags = append(tags, image.String())
		} else {
			indexes = append(indexes, image.String())
		}
		if len(tags)+len(indexes) == control.MaxNamed {
			break
		}
	}
	slices.Sort(tags)
	slices.Sort(indexes)
	return tags, indexes, nil
}

// Restore lifts what withdraws a digest in an image's repository. The image
// then needs a new block, which the next request to publish it makes.
func (p *Publisher) Restore(ctx context.Context, req control.RestoreRequest) (*control.RestoreResponse, error) {
	image, d, err := p.withdrawal(ctx, req.Image, req.Digest, req.Floor)
	if err != nil {
		return nil, err
	}
	height, err := p.Writer.RestoreArtifact(ctx, image.Name(), d, req.Reason, time.Now())
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("restoring %s@%s: %w", image.Name(), d, err)
	}
	block, err := p.block(ctx, height)
	if err != nil {
		return nil, errors.Join(errors.New("the restoration is on the ledger"), err)
	}
	p.Log.Warn("restored", "repository", image.Name(), "digest", d, "block", height, "reason", req.Reason)
	return &control.RestoreResponse{Block: *block.Block}, nil
}
