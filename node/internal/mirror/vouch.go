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

// errNotVouched is returned for content that no block of the ledger leads to.
var errNotVouched = errors.New("no block of the ledger vouches for it")

// errUnsure is returned for content that a block may lead to, whose piece list
// is out of reach.
var errUnsure = errors.New("whether a block of the ledger vouches for it is not known now")

// ignoreRefusal drops the error of a block that does not vouch.
func ignoreRefusal(err error) error {
	if isWithdrawn(err) || errors.Is(err, errNotVouched) {
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
	// hopeless is after how long without a piece list that could be had a search
	// for more of them ends.
	hopeless = 2 * time.Second
)

// voucher finds the block that vouches for content, and the chain of digests
// from the block to it: entry -> piece list -> blob.
type voucher struct {
	ledger   *replica.Ledger
	fetcher  *transfer.Fetcher
	lists    *lists
	searches searches
}

func newVoucher(l *replica.Ledger, f *transfer.Fetcher) (*voucher, error) {
	known, err := newLists()
	if err != nil {
		return nil, err
	}
	searches, err := newSearches()
	return &voucher{ledger: l, fetcher: f, lists: known, searches: searches}, err
}

// vouched is a blob that a block vouches for.
type vouched struct {
	pieces.Blob
	list  digest.Digest // of its piece list
	block *ledger.Entry
}

// tag finds what an image's tag points to, by the newest block.
func (v *voucher) tag(ctx context.Context, image ledger.Image, describe bool) (vouched, error) {
	latest, err := v.ledger.Latest(ctx, image)
	if errors.Is(err, ledger.ErrNotFound) {
		return vouched{}, errNotVouched
	}
	if err != nil {
		return vouched{}, err
	}
	look := v.inBlock
	if describe {
		look = v.inEntry
	}
	return look(ctx, latest, image.Name(), latest.Artifact.Digest)
}

// describe returns what the ledger itself knows of some content, even while no
// node that has it can be reached.
func (v *voucher) describe(ctx context.Context, repository string, d digest.Digest) (vouched, error) {
	if ledger.CheckDigest(d) == nil {
		if found, err := v.byDigest(ctx, repository, d, d, v.inEntry); err == nil {
			return found, nil
		}
	}
	return v.digest(ctx, repository, d)
}

// digest finds content of a repository ("docker.io/library/alpine").
func (v *voucher) digest(ctx context.Context, repository string, d digest.Digest) (vouched, error) {
	if err := ledger.CheckDigest(d); err != nil {
		return vouched{}, fmt.Errorf("%w: %w", errNotVouched, err)
	}
	head, _ := v.ledger.Head() // what is searched is this tree or a later one
	if err := v.searches.refusal(wanted{repository, d}, head.Tree, time.Now()); err != nil {
		return vouched{}, err
	}
	// Manifests and configs are in the index of the ledger ...
	found, err := v.byDigest(ctx, repository, d, d, v.inBlock)
	if !errors.Is(err, errNotVouched) {
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
type look func(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (vouched, error)

// byDigest looks for d in the blocks that name a digest. One that is withdrawn
// does not keep others from vouching.
func (v *voucher) byDigest(ctx context.Context, repository string, named, d digest.Digest, in look) (vouched, error) {
	refusal := errNotVouched
	n := 0
	for b, err := range v.ledger.Naming(ctx, named) {
		if err != nil {
			return vouched{}, err
		}
		if n++; n > maxBlocks {
			break
		}
		found, err := in(ctx, b, repository, d)
		if isWithdrawn(err) {
			refusal = err
			continue
		}
		if !errors.Is(err, errNotVouched) {
			return found, err
		}
	}
	return vouched{}, refusal
}

// search looks into the piece lists of a repository's blocks: first into those
// at hand, so that a pull goes on after a restart of this node.
func (v *voucher) search(ctx context.Context, repository string, d digest.Digest) (vouched, error) {
	blocks, err := v.blocksOf(ctx, repository)
	if err != nil {
		return vouched{}, err
	}
	var here, away []*ledger.Entry
	for _, b := range blocks {
		if v.fetcher.Has(b.Artifact.Pieces) {
			here = append(here, b)
		} else {
			away = append(away, b)
		}
	}
	refusal := errNotVouched
	if len(away) > maxAway || len(blocks) == maxSearched {
		refusal = fmt.Errorf("%w: %s has more blocks than are searched", errUnsure, repository)
	}
	hope := time.Now() // when a list was read last
	for _, b := range slices.Concat(here, away[:min(len(away), maxAway)]) {
		// A list that no peer has now does not keep the others from vouching.
		found, err := v.inBlock(ctx, b, repository, d)
		if ignoreRefusal(err) == nil {
			hope = time.Now()
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
			return vouched{}, fmt.Errorf("%w: %w", errUnsure, err)
		}
		if time.Since(hope) > hopeless {
			break
		}
	}
	return vouched{}, refusal
}

// blocksOf are up to maxSearched blocks of a repository.
func (v *voucher) blocksOf(ctx context.Context, repository string) (blocks []*ledger.Entry, err error) {
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
func (v *voucher) inEntry(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (vouched, error) {
	a := block.Artifact
	if a.Digest != d {
		return vouched{}, errNotVouched
	}
	if _, err := v.revoked(ctx, block, repository, d); err != nil {
		return vouched{}, err
	}
	return vouched{Blob: pieces.Blob{Digest: d, MediaType: a.MediaType, Size: a.Size}, list: a.Pieces, block: block}, nil
}

// revoked finds the block that withdraws a digest in a block of a repository.
// For what the block names itself that is an error.
func (v *voucher) revoked(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (by *ledger.Entry, err error) {
	image, err := ledger.ParseImage(block.Artifact.Artifact)
	if err != nil {
		return nil, err
	}
	if image.Name() != repository {
		return nil, errNotVouched
	}
	by, err = v.ledger.RevokedIn(ctx, block, d)
	if err == nil && by != nil && block.Artifact.Names(d) {
		return nil, &ledger.WithdrawnError{By: by}
	}
	return by, err
}

// inBlock looks for a digest in one block's artifact.
func (v *voucher) inBlock(ctx context.Context, block *ledger.Entry, repository string, d digest.Digest) (vouched, error) {
	a := block.Artifact
	by, err := v.revoked(ctx, block, repository, d)
	if err != nil {
		return vouched{}, err
	}
	blobs, err := v.list(ctx, a)
	if err != nil {
		return vouched{}, err
	}
	b, ok := blobs[d]
	if !ok {
		return vouched{}, errNotVouched
	}
	if by == nil && !a.Names(d) {
		by, err = v.withPlatform(ctx, block, d)
	}
	if err == nil && by != nil {
		err = &ledger.WithdrawnError{By: by}
	}
	if err != nil {
		return vouched{}, err
	}
	return vouched{Blob: b, list: a.Pieces, block: block}, nil
}

// withPlatform finds the block that withdraws a layer with its platform: of
// those platforms of a block that have the layer, all are withdrawn.
func (v *voucher) withPlatform(ctx context.Context, block *ledger.Entry, layer digest.Digest) (by *ledger.Entry, err error) {
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
func (v *voucher) list(ctx context.Context, a *ledger.AddArtifact) (blobsOf, error) {
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
