package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// errNotOnLedger is returned for content that no block of the ledger leads to.
var errNotOnLedger = errors.New("no block of the ledger vouches for it")

// errUnsure is returned for content that a block may lead to, whose piece list
// cannot be read now.
var errUnsure = errors.New("whether a block of the ledger vouches for it is not known now")

// ignoreRefusal drops the error of a block that does not lead to the content.
func ignoreRefusal(err error) error {
	if isWithdrawn(err) || errors.Is(err, errNotOnLedger) {
		return nil
	}
	return err
}

func isWithdrawn(err error) bool {
	_, withdrawn := errors.AsType[*ledger.WithdrawnError](err)
	return withdrawn
}

const (
	maxBlocks   = 8192 // that name one digest
	maxSearched = 8192 // of a repository, in search of one digest
	maxAway     = 512  // of those, whose piece list is fetched
	// searchTimeout is after how long without a readable piece list a search ends.
	searchTimeout = 2 * time.Second
)

// resolver finds the block that content hangs on, and the chain of digests from
// the block to it: entry -> piece list -> blob.
type resolver struct {
	ledger   *replica.Ledger
	fetcher  *transfer.Fetcher
	lists    *lists
	searches searches
}

func newResolver(l *replica.Ledger, f *transfer.Fetcher) (*resolver, error) {
	known, err := newLists()
	if err != nil {
		return nil, err
	}
	searches, err := newSearches()
	return &resolver{ledger: l, fetcher: f, lists: known, searches: searches}, err
}

// resolved is a blob, with the block and the piece list that lead to it.
type resolved struct {
	pieces.Blob
	list  digest.Digest // of its piece list
	block *ledger.Entry
}

// tag finds what an image's tag points to, by the newest block.
func (v *resolver) tag(ctx context.Context, image ledger.Image, describe bool) (resolved, error) {
	latest, err := v.ledger.Latest(ctx, image)
	if errors.Is(err, ledger.ErrNotFound) {
		return resolved{}, errNotOnLedger
	}
	if err != nil {
		return resolved{}, err
	}
	look := v.inBlock
	if describe {
		look = v.inEntry
	}
	return look(ctx, latest, image.Name(), latest.Artifact.Digest)
}

// describe returns what the ledger itself knows of some content, even while no
// node that has it can be reached.
func (v *resolver) describe(ctx context.Context, repository string, d digest.Digest) (resolved, error) {
	if ledger.CheckDigest(d) == nil {
		if found, err := v.byDigest(ctx, repository, d, d, v.inEntry); err == nil {
			return found, nil
		}
	}
	return v.digest(ctx, repository, d)
}

// digest finds content of a repository ("docker.io/library/alpine").
func (v *resolver) digest(ctx context.Context, repository string, d digest.Digest) (resolved, error) {
	if err := ledger.CheckDigest(d); err != nil {
		return resolved{}, fmt.Errorf("%w: %w", errNotOnLedger, err)
	}
	head, _ := v.ledger.Head() // what is searched is this tree or a later one
	if err := v.searches.refusal(wanted{repository, d}, head.Tree, time.Now()); err != nil {
		return resolved{}, err
	}
	// Manifests and configs are in the index of the ledger ...
	found, err := v.byDigest(ctx, repository, d, d, v.inBlock)
	if !errors.Is(err, errNotOnLedger) {
		return found, err
	}
	// ... layers in piece lists, of which those in use are in memory ...
	for _, list := range v.lists.holding(d) {
		found, err := v.byDigest(ctx, repository, list, d, v.inBlock)
		if ignoreRefusal(err) != nil || err == nil {
			return found, err
		}
	}
	// ... and the others are looked for. A layer that a withdrawn image has may
	// be of another one that stands.
	found, err = v.search(ctx, repository, d)
	if ctx.Err() == nil {
		v.searches.add(wanted{repository, d}, head.Tree, err, time.Now())
	}
	return found, err
}

// look looks for a digest in one block of a repository.
type look func(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (resolved, error)

// byDigest looks for d in the blocks that name a digest. A withdrawn block does
// not hide the others.
func (v *resolver) byDigest(ctx context.Context, repository string, named, d digest.Digest, in look) (resolved, error) {
	refusal := errNotOnLedger
	n := 0
	for b, err := range v.ledger.Naming(ctx, named) {
		if err != nil {
			return resolved{}, err
		}
		if n++; n > maxBlocks {
			break
		}
		found, err := in(ctx, b, repository, d)
		if isWithdrawn(err) {
			refusal = err
			continue
		}
		if !errors.Is(err, errNotOnLedger) {
			return found, err
		}
	}
	return resolved{}, refusal
}

// search looks into the piece lists of a repository's blocks: first into those
// at hand, so that a pull goes on after a restart of this node.
func (v *resolver) search(ctx context.Context, repository string, d digest.Digest) (resolved, error) {
	blocks, err := v.blocksOf(ctx, repository)
	if err != nil {
		return resolved{}, err
	}
	var here, away []*ledger.Entry
	for _, b := range blocks {
		if v.fetcher.Has(b.Artifact.Pieces) {
			here = append(here, b)
		} else {
			away = append(away, b)
		}
	}
	refusal := errNotOnLedger
	if len(away) > maxAway || len(blocks) == maxSearched {
		refusal = fmt.Errorf("%w: %s has more blocks than are searched", errUnsure, repository)
	}
	lastRead := time.Now() // when a list was read last
	for _, b := range slices.Concat(here, away[:min(len(away), maxAway)]) {
		// A list that no peer has now does not hide the others.
		found, err := v.inBlock(ctx, b, repository, d)
		if ignoreRefusal(err) == nil {
			lastRead = time.Now()
		}
		switch {
		case err == nil:
			return found, nil
		case isWithdrawn(err):
			refusal = err
		case ignoreRefusal(err) != nil && !isWithdrawn(refusal):
			refusal = fmt.Errorf("%w: %w", errUnsure, err)
		}
		if err := ctx.Err(); err != nil {
			return resolved{}, fmt.Errorf("%w: %w", errUnsure, err)
		}
		if time.Since(lastRead) > searchTimeout {
			break
		}
	}
	return resolved{}, refusal
}

// blocksOf are up to maxSearched blocks of a repository.
func (v *resolver) blocksOf(ctx context.Context, repository string) (blocks []*ledger.Entry, err error) {
	tags, err := v.ledger.Tags(ctx, repository, "", maxSearched)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		image, err := ledger.ParseImage(repository + ":" + tag)
		if err != nil {
			return nil, err
		}
		history, err := v.ledger.History(ctx, image, maxSearched-len(blocks))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, history...)
	}
	return blocks, nil
}

// inEntry looks for a digest in one block's entry: that of the artifact's own
// manifest or index, of which it has all that a description needs.
func (v *resolver) inEntry(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (resolved, error) {
	a := block.Artifact
	if a.Digest != d {
		return resolved{}, errNotOnLedger
	}
	if _, err := v.revoked(ctx, block, repository, d); err != nil {
		return resolved{}, err
	}
	return resolved{Blob: pieces.Blob{Digest: d, MediaType: a.MediaType, Size: a.Size}, list: a.Pieces, block: block}, nil
}

// revoked finds the block that withdraws a digest in a block of a repository.
// For what the block names itself that is an error.
func (v *resolver) revoked(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (by *ledger.Entry, err error) {
	image, err := ledger.ParseImage(block.Artifact.Artifact)
	if err != nil {
		return nil, err
	}
	if image.Name() != repository {
		return nil, errNotOnLedger
	}
	by, err = v.ledger.RevokedIn(ctx, block, d)
	if err == nil && by != nil && block.Artifact.Names(d) {
		return nil, &ledger.WithdrawnError{By: by}
	}
	return by, err
}

// inBlock looks for a digest in one block's artifact.
func (v *resolver) inBlock(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (resolved, error) {
	a := block.Artifact
	by, err := v.revoked(ctx, block, repository, d)
	if err != nil {
		return resolved{}, err
	}
	blobs, err := v.list(ctx, a)
	if err != nil {
		return resolved{}, err
	}
	b, ok := blobs[d]
	if !ok {
		return resolved{}, errNotOnLedger
	}
	if by == nil && !a.Names(d) {
		by, err = v.withPlatform(ctx, block, d)
	}
	if err == nil && by != nil {
		err = &ledger.WithdrawnError{By: by}
	}
	if err != nil {
		return resolved{}, err
	}
	return resolved{Blob: b, list: a.Pieces, block: block}, nil
}

// withPlatform finds the block that withdraws a layer with its platform: of
// those platforms of a block that have the layer, all are withdrawn.
func (v *resolver) withPlatform(ctx context.Context, block *ledger.Entry, layer digest.Digest) (by *ledger.Entry, err error) {
	withdrawn, err := v.ledger.WithdrawnPlatforms(ctx, block)
	if err != nil || len(withdrawn) == 0 {
		return nil, err
	}
	blobs, err := v.list(ctx, block.Artifact)
	if err != nil {
		return nil, err
	}
	for _, p := range block.Artifact.Platforms {
		data, err := v.fetcher.ReadAll(ctx, blobs[p.Digest], block.Artifact.Pieces, maxManifest)
		if err != nil {
			return nil, fmt.Errorf("the manifest of %s: %w", p.Platform, err)
		}
		if !bytes.Contains(data, []byte(layer)) {
			continue
		}
		if by = withdrawn[p.Digest]; by == nil {
			return nil, nil
		}
	}
	return by, nil // nil: a layer of what hangs on the image
}

// list brings an artifact's piece list.
func (v *resolver) list(ctx context.Context, a *ledger.AddArtifact) (blobsOf, error) {
	if blobs, ok := v.lists.get(a.Pieces); ok {
		return blobs, nil
	}
	data, err := v.fetcher.Small(ctx, a.Pieces, pieces.MaxList)
	if err != nil {
		return nil, fmt.Errorf("the piece list of %s: %w", a.Artifact, err)
	}
	l, err := pieces.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Artifact, err)
	}
	return v.lists.add(a.Pieces, l), nil
}
