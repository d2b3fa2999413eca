package replica

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// has tells whether the ledger may have a block under a key.
func (l *Ledger) has(key index.Key) (found bool, err error) {
	err = l.ask(context.Background(), func() error {
		return l.index.Heights(key, l.Size(), func(int64) bool { found = true; return false })
	})
	return found, err
}

// RevokedBy finds the block that withdraws a block; nil if it stands. That is
// one that names the block, else one that withdraws the block's digest.
func (l *Ledger) RevokedBy(ctx context.Context, block *ledger.Entry) (*ledger.Entry, error) {
	if block.Artifact == nil {
		return nil, nil
	}
	repository := block.Artifact.Repository()
	if some, err := l.has(index.WithdrawalsKey(repository)); err != nil || !some {
		return nil, err // most repositories: one look
	}
	by, err := l.revocation(ctx, block)
	if by != nil || err != nil {
		return by, err
	}
	return l.Withdrawal(ctx, repository, block.Artifact.Digest)
}

// revocation finds the block of version 1 that names a block.
func (l *Ledger) revocation(ctx context.Context, block *ledger.Entry) (*ledger.Entry, error) {
	return l.first(ctx, index.BlockKey(block.Height), func(e *ledger.Entry) bool {
		return e.Revocation != nil && e.Height > block.Height && revokes(e.Revocation, block)
	})
}

func (l *Ledger) first(ctx context.Context, key index.Key, match func(*ledger.Entry) bool) (*ledger.Entry, error) {
	found, err := l.find(ctx, key, l.Size(), 1, match)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// Withdrawal finds the block that withdraws a digest in a repository, whichever
// blocks record it, and that nothing has lifted; nil if there is none.
func (l *Ledger) Withdrawal(ctx context.Context, repository string, d digest.Digest) (*ledger.Entry, error) {
	return l.unlifted(ctx, repository, d, func(e *ledger.Entry) bool { return e.Withdrawal != nil })
}

// unlifted finds the newest block of a kind that withdraws a digest, unless a
// RestoreArtifact lifts it.
func (l *Ledger) unlifted(ctx context.Context, repository string, d digest.Digest, kind func(*ledger.Entry) bool) (*ledger.Entry, error) {
	lifted := int64(-1)
	newest, err := l.first(ctx, index.WithdrawalsKey(repository+"@"+d.String()), func(e *ledger.Entry) bool {
		if r, of := e.Withdraws(); r != repository || of != d {
			return false // another key that begins alike
		}
		if e.Restoration != nil && e.Restoration.Block < e.Height {
			lifted = max(lifted, e.Restoration.Block)
		}
		return e.Restoration == nil && kind(e)
	})
	if err != nil || newest == nil || newest.Height <= lifted {
		return nil, err
	}
	return newest, nil
}

// RevokedIn finds the block that withdraws a digest that a block names: with
// the whole block, or as one of its platforms' manifests, with its config. It
// is nil if the digest stands.
func (l *Ledger) RevokedIn(ctx context.Context, block *ledger.Entry, d digest.Digest) (*ledger.Entry, error) {
	by, err := l.RevokedBy(ctx, block)
	if by != nil || err != nil || block.Artifact == nil || block.Artifact.Digest == d {
		return by, err
	}
	for _, p := range block.Artifact.Platforms {
		if p.Digest != d && p.Config != d {
			continue
		}
		if by, err = l.Withdrawal(ctx, block.Artifact.Repository(), p.Digest); by == nil || err != nil {
			return nil, err // this platform vouches for it
		}
	}
	return by, nil
}

// WithdrawnPlatforms are the digests of those platforms' manifests of a block
// that are withdrawn by themselves, with the blocks that do so.
func (l *Ledger) WithdrawnPlatforms(ctx context.Context, block *ledger.Entry) (map[digest.Digest]*ledger.Entry, error) {
	repository := block.Artifact.Repository()
	if some, err := l.has(index.WithdrawalsKey(repository)); err != nil || !some {
		return nil, err
	}
	var out map[digest.Digest]*ledger.Entry
	for _, p := range block.Artifact.Platforms {
		by, err := l.Withdrawal(ctx, repository, p.Digest)
		if err != nil {
			return nil, err
		}
		if by != nil {
			if out == nil {
				out = map[digest.Digest]*ledger.Entry{}
			}
			out[p.Digest] = by
		}
	}
	return out, nil
}

// Standing finds the newest block of a repository that names a digest (of an
// artifact, a platform's manifest or an image ID) and by which it stands. If
// all are withdrawn, it returns a *WithdrawnError; if there is none, ErrNotFound.
func (l *Ledger) Standing(ctx context.Context, repository string, d digest.Digest) (*ledger.Entry, error) {
	var withdrawn error
	for e, err := range l.Naming(ctx, d) {
		if err != nil {
			return nil, err
		}
		if e.Artifact.Repository() != repository {
			continue
		}
		by, err := l.RevokedIn(ctx, e, d)
		if err != nil || by == nil {
			return e, err
		}
		if withdrawn == nil {
			withdrawn = &ledger.WithdrawnError{By: by}
		}
	}
	if withdrawn != nil {
		return nil, withdrawn
	}
	return nil, fmt.Errorf("%s@%s: %w", repository, d, ledger.ErrNotFound)
}

// namingPage is how many of the blocks that name a digest are read in one page.
const namingPage = 64

// Naming yields all blocks that name a digest, newest first.
func (l *Ledger) Naming(ctx context.Context, d digest.Digest) func(yield func(*ledger.Entry, error) bool) {
	return func(yield func(*ledger.Entry, error) bool) {
		for below := l.Size(); below > 0; {
			blocks, err := l.byDigestBelow(ctx, d, below, namingPage)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, e := range blocks {
				if !yield(e, nil) {
					return
				}
				below = e.Height
			}
			if len(blocks) < namingPage {
				return
			}
		}
	}
}

// StandingTags is Tags without those whose newest block is withdrawn.
func (l *Ledger) StandingTags(ctx context.Context, repository, after string, limit int) ([]string, error) {
	some, err := l.has(index.WithdrawalsKey(repository))
	if err != nil {
		return nil, err
	}
	if !some {
		return l.Tags(ctx, repository, after, limit)
	}
	var out []string
	for len(out) < limit {
		tags, err := l.Tags(ctx, repository, after, limit)
		if err != nil || len(tags) == 0 {
			return out, err
		}
		for _, tag := range tags {
			after = tag
			image, err := ledger.ParseImage(repository + ":" + tag)
			if err != nil {
				return nil, err
			}
			latest, err := l.Latest(ctx, image)
			if err != nil {
				return nil, err
			}
			by, err := l.RevokedBy(ctx, latest)
			if err != nil {
				return nil, err
			}
			if by == nil && len(out) < limit {
				out = append(out, tag)
			}
		}
	}
	return out, nil
}

// WithdrawsAny tells whether anything on the ledger is, or was, withdrawn.
func (l *Ledger) WithdrawsAny() (bool, error) { return l.has(index.WithdrawalsKey("")) }

// Withdrawals lists the blocks from a height on that withdraw something or
// restore it, newest first.
func (l *Ledger) Withdrawals(ctx context.Context, from int64) (out []*ledger.Entry, err error) {
	for below := l.Size(); below > from; {
		found, err := l.find(ctx, index.WithdrawalsKey(""), below, namingPage, func(e *ledger.Entry) bool { _, d := e.Withdraws(); return d != "" })
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			if e.Height >= from {
				out = append(out, e)
			}
			below = e.Height
		}
		if len(found) < namingPage {
			break
		}
	}
	return out, nil
}

// revokes tells whether an entry withdraws a block.
func revokes(e *ledger.RevokeArtifact, block *ledger.Entry) bool {
	return e.Block == block.Height && block.Artifact != nil && e.Artifact == block.Artifact.Artifact && e.Digest == block.Artifact.Digest
}
