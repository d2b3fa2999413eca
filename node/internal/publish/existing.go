package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// recorded is the block that answers for a digest without asking the upstream:
// the newest one of the tag with it. There is none if the tag was seen to come
// back to the digest since its newest block.
func (p *Publisher) recorded(ctx context.Context, image ledger.Image, d digest.Digest) (*ledger.Entry, error) {
	latest, err := p.Writer.Latest(ctx, image)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil || latest.Artifact.Digest == d {
		return latest, err
	}
	_, back, err := p.newer(ctx, image, d)
	if err != nil || back {
		return nil, err
	}
	older, err := p.Writer.Find(ctx, image, d)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	return older, err
}

func (p *Publisher) checkFloor(ctx context.Context, floor string) error {
	if floor == "" {
		return nil
	}
	if err := p.Writer.CheckFloor(ctx, []byte(floor)); err != nil {
		return &control.Error{Reason: control.ReasonLedgerBehind,
			Message: fmt.Sprintf("%v: restore the publisher's volume, or copy the ledger back from a mirror", err)}
	}
	return nil
}

// standing is the block that records a digest, if it stands. If there is none
// and the digest may not be published, the error is a *ledger.WithdrawnError:
// what is withdrawn is not published again, under whichever tag.
func (p *Publisher) standing(ctx context.Context, image ledger.Image, d digest.Digest, recorded *ledger.Entry) (*ledger.Entry, error) {
	if recorded != nil {
		if by, err := p.Writer.RevokedBy(ctx, recorded); err != nil || by == nil {
			return recorded, err
		}
	}
	return nil, p.Writer.Withdrawn(ctx, image.Name(), d)
}

// latest is the newest block of an image, if it stands and has the digest.
func (p *Publisher) latest(ctx context.Context, image ledger.Image, d digest.Digest) (*ledger.Entry, error) {
	e, err := p.Writer.Latest(ctx, image)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return nil, err
	}
	if err != nil || e.Artifact.Digest != d {
		e = nil
	}
	return p.standing(ctx, image, d, e)
}

// existing answers with a block that is there and has what a job is to publish.
// No answer means that the job is to be done: a block with more platforms is to
// be made, or the content of the one that is there, the job's recorded one, is gone.
func (p *Publisher) existing(ctx context.Context, j *job) (*control.PublishResponse, error) {
	e, err := p.recorded(ctx, j.image, j.key.digest)
	if err == nil {
		e, err = p.standing(ctx, j.image, j.key.digest, e)
	}
	if err != nil {
		return nil, p.refusal(err, j.image, j.registry)
	}
	if e == nil {
		return nil, nil
	}
	if !p.hasContent(e) {
		j.recorded = e
		return nil, nil
	}
	if whole, err := p.holds(ctx, e, j.platforms); err != nil || !whole {
		return nil, err
	}
	return p.block(ctx, e.Height)
}

// holds tells whether a block has all of the platforms (all that the image has,
// if there are none), and the store its content.
func (p *Publisher) holds(ctx context.Context, e *ledger.Entry, platforms []string) (bool, error) {
	if !p.hasContent(e) {
		return false, nil
	}
	missing, err := upstream.MissingPlatforms(ctx, p.Store, e.Artifact, platforms)
	return err == nil && len(missing) == 0, err
}

// hasContent tells whether the store has a block's content. Of what is being
// dropped it may have the piece list, which goes last.
func (p *Publisher) hasContent(e *ledger.Entry) bool {
	return p.Store.Has(e.Artifact.Pieces) && p.Store.Has(e.Artifact.Digest)
}

func (p *Publisher) block(ctx context.Context, height int64) (*control.PublishResponse, error) {
	b, proof, err := p.Writer.Block(ctx, height)
	if err != nil {
		return nil, err
	}
	return &control.PublishResponse{Block: &control.Block{Height: height, Entry: string(b.Data), Proof: string(proof)}}, nil
}
