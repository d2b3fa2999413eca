package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	// attachmentsEvery is how often is looked for what was attached to an image
	// after it was published, by default; attachmentsRetry is when again after a
	// failure.
	attachmentsEvery = 24 * time.Hour
	attachmentsRetry = time.Hour
	// maxLooked bounds the images whose last look is remembered.
	maxLooked = 1 << 16
)

// lookAgain starts a look for signatures and attestations that were added after
// the image, if it is time. Sets resolve their images now and then, which
// triggers it. The first time after a start is random, so that not all images
// are looked at together.
func (p *Publisher) lookAgain(e *ledger.Entry, image ledger.Image, registry *upstream.Registry) {
	k, now := key{image.String(), e.Artifact.Digest}, time.Now()
	next, known := p.looked.Get(k)
	if !known {
		next = now.Add(rand.N(p.AttachmentsEvery))
		p.looked.Add(k, next)
	}
	if now.Before(next) || p.dropped.has(k) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.looks == maxJobs {
		return
	}
	p.looks++
	p.looked.Add(k, now.Add(p.AttachmentsEvery))
	p.queue.push(&job{key: k, image: image, registry: registry, block: e, ended: make(chan struct{})})
	p.dispatch()
}

// haveLooked ends what lookAgain began.
func (p *Publisher) haveLooked(j *job, err error) {
	p.mu.Lock()
	p.looks--
	p.mu.Unlock()
	if err != nil {
		p.looked.Add(j.key, time.Now().Add(min(attachmentsRetry, p.AttachmentsEvery)))
	}
}

// attachments copies what hangs on an image that has a block and is not on the
// ledger. For referrers it takes a further block of the same image, whose piece
// list has them.
func (p *Publisher) attachments(ctx context.Context, j *job) ([]*ledger.AddArtifact, error) {
	a := j.block.Artifact
	if by, err := p.Writer.RevokedBy(ctx, j.block); err != nil || by != nil || !p.Store.Has(a.Pieces) {
		return nil, err
	}
	entries, err := p.signatures(ctx, j)
	if err != nil {
		return nil, err
	}
	attached, err := j.registry.Attached(ctx, j.image, a.Digest)
	if err != nil {
		return nil, err
	}
	blobs, err := p.blobs(ctx, a.Pieces)
	if err != nil {
		return nil, err
	}
	known := func(d digest.Digest) bool {
		return slices.ContainsFunc(blobs, func(b pieces.Blob) bool { return b.Digest == d })
	}
	if !slices.ContainsFunc(attached.Referrers, func(d digest.Digest) bool { return !known(d) }) {
		return entries, nil
	}
	platforms, err := p.platformsOf(ctx, a)
	if err != nil {
		return nil, err
	}
	again, err := j.registry.Copy(ctx, j.image, a.Digest, upstream.Selection{Platforms: platforms, Recorded: a}, p.Store, &j.progress)
	if err != nil {
		return nil, err
	}
	if again.Pieces == a.Pieces {
		return entries, nil // what is listed is not there
	}
	return append(entries, again), nil
}

// platformsOf are the platforms with which an image was published; none means all.
func (p *Publisher) platformsOf(ctx context.Context, a *ledger.AddArtifact) (platforms []string, err error) {
	missing, err := upstream.MissingPlatforms(ctx, p.Store, a, nil)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	for _, one := range a.Platforms {
		if one.Platform != ledger.UnknownPlatform { // attestations come with what they are of
			platforms = append(platforms, one.Platform)
		}
	}
	return platforms, nil
}

// signatures copies the signatures of a job's image that are not on the ledger.
func (p *Publisher) signatures(ctx context.Context, j *job) (entries []*ledger.AddArtifact, err error) {
	j.attachedAt = p.Writer.Size()
	attached, err := j.registry.Attached(ctx, j.image, j.key.digest)
	if err != nil {
		return nil, err
	}
	for _, s := range attached.Signatures {
		if s, err = p.signature(ctx, j, s); err != nil {
			return nil, err
		}
		there, err := p.published(ctx, s.Image, s.Digest)
		if err != nil {
			return nil, err
		}
		if there {
			continue
		}
		e, err := j.registry.Copy(ctx, s.Image, s.Digest, upstream.Selection{}, p.Store, new(upstream.Progress))
		if err != nil {
			return nil, fmt.Errorf("a signature: %w", err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// signature asks again for a signature whose tag moved: that answer may be
// remembered, and older than the tag's newest block.
func (p *Publisher) signature(ctx context.Context, j *job, s upstream.Signature) (upstream.Signature, error) {
	latest, err := p.Writer.Latest(ctx, s.Image)
	if errors.Is(err, ledger.ErrNotFound) {
		return s, nil
	}
	if err != nil || latest.Artifact.Digest == s.Digest {
		return s, err
	}
	d, err := j.registry.Resolve(ctx, s.Image)
	if upstream.IsNotFound(err) {
		return upstream.Signature{Image: s.Image, Digest: latest.Artifact.Digest}, nil // it is gone: what is recorded stays
	}
	s.Digest = d
	return s, err
}

// recordSignature appends the block of a signature, which its tag had when it
// was asked. One that a newer block overtook meanwhile is looked for again when
// the image's attachments are.
func (p *Publisher) recordSignature(ctx context.Context, j *job, e *ledger.AddArtifact) (int64, error) {
	word{}.write(e)
	height, err := p.Writer.AppendAfter(ctx, e, j.attachedAt)
	if errors.Is(err, replica.ErrSuperseded) {
		return 0, nil
	}
	return height, err
}

// recordAttached appends the further block of an image to which something was
// attached. One that was made meanwhile, with more platforms, is looked at again
// when its image's attachments are.
func (p *Publisher) recordAttached(ctx context.Context, e *ledger.AddArtifact) (int64, error) {
	word{}.write(e)
	height, err := p.Writer.AppendMore(ctx, e)
	if errors.Is(err, replica.ErrSuperseded) {
		return 0, nil
	}
	return height, err
}

// published tells whether a tag's newest block has a digest, with all its
// platforms and content, or the digest is withdrawn.
func (p *Publisher) published(ctx context.Context, image ledger.Image, d digest.Digest) (bool, error) {
	latest, err := p.latest(ctx, image, d)
	if _, withdrawn := errors.AsType[*ledger.WithdrawnError](err); withdrawn {
		return true, nil
	}
	if err != nil || latest == nil {
		return false, err
	}
	return p.holds(ctx, latest, nil)
}
