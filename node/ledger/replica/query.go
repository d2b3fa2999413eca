package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/torchwood"
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// Entry reads the block at a height, checked against the head.
func (l *Ledger) Entry(ctx context.Context, height int64) (*ledger.Entry, error) {
	head, ok := l.Head()
	if !ok || height < 0 || height >= head.Tree.N {
		return nil, fmt.Errorf("block %d: %w", height, ledger.ErrNotFound)
	}
	if e, ok := l.entries.Get(height); ok {
		return e, nil
	}
	data, err := l.readEntry(ctx, head.Tree, height)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	e, err := ledger.ReadEntry(height, data)
	if err != nil && !errors.Is(err, ledger.ErrUnknownEntry) {
		l.log.Warn("block cannot be read", "block", height, "error", err)
	}
	l.entries.Add(height, e)
	return e, nil
}

// readEntry reads a block's bytes, and compares them with the leaf hash that
// was checked when the block was indexed.
func (l *Ledger) readEntry(ctx context.Context, tree tlog.Tree, height int64) (data []byte, err error) {
	err = l.ask(ctx, func() (err error) {
		data, err = l.entryAt(tree, height)
		return err
	})
	return data, err
}

// ask asks the index, and once more when a part of it was damaged and has been
// made again.
func (l *Ledger) ask(ctx context.Context, question func() error) error {
	err := question()
	damaged, ok := errors.AsType[*index.DamagedError](err)
	if !ok {
		return err
	}
	l.log.Warn("making a piece of the index again", "error", err)
	l.mu.Lock()
	head, _ := l.Head()
	rerr := l.remake(ctx, damaged, head.Tree)
	l.mu.Unlock()
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	return question()
}

// remake makes a damaged part of the index again from the bundles of a tree; the
// caller holds mu.
func (l *Ledger) remake(ctx context.Context, damaged *index.DamagedError, tree tlog.Tree) error {
	p := proven{ctx, l.cache.over(l.dir), tree}
	return l.index.Remake(damaged, func(height int64) (*index.Batch, error) { return l.checkBundle(p, height) })
}

// Block reads the block at a height, with a tlog-proof under the head.
func (l *Ledger) Block(ctx context.Context, height int64) (*ledger.Entry, []byte, error) {
	e, err := l.Entry(ctx, height)
	if err != nil {
		return nil, nil, err
	}
	head, _ := l.Head()
	proof, err := l.Prove(ctx, height, head)
	if err != nil {
		return nil, nil, err
	}
	return e, torchwood.FormatProof(height, proof, head.Signed), nil
}

// Prove makes the inclusion proof of a block (RFC 6962, section 2.1.1) in the
// tree of a checkpoint that was the head.
func (l *Ledger) Prove(ctx context.Context, height int64, c ledger.Checkpoint) (tlog.RecordProof, error) {
	proof, err := tlog.ProveRecord(c.Tree.N, height, proven{ctx, l.cache, c.Tree})
	if err != nil {
		return nil, fmt.Errorf("proving block %d: %w", height, err)
	}
	return proof, nil
}

// Latest finds the newest block of an image.
func (l *Ledger) Latest(ctx context.Context, image ledger.Image) (*ledger.Entry, error) {
	found, err := l.find(ctx, index.ImageKey([]byte(image.String())), l.Size(), 1, func(e *ledger.Entry) bool { return records(e, image) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", image, ledger.ErrNotFound)
	}
	return found[0], nil
}

// History lists up to limit blocks of an image, newest first.
func (l *Ledger) History(ctx context.Context, image ledger.Image, limit int) ([]*ledger.Entry, error) {
	return l.historyBelow(ctx, image, l.Size(), limit)
}

func (l *Ledger) historyBelow(ctx context.Context, image ledger.Image, below int64, limit int) ([]*ledger.Entry, error) {
	return l.find(ctx, index.ImageKey([]byte(image.String())), below, limit, func(e *ledger.Entry) bool { return records(e, image) })
}

// records tells whether a block records an image.
func records(e *ledger.Entry, image ledger.Image) bool {
	return e.Artifact != nil && e.Artifact.Name() == image.String()
}

// ByDigest lists up to limit blocks that name a digest (of an artifact, a
// platform's manifest, an image ID or a piece list), newest first.
func (l *Ledger) ByDigest(ctx context.Context, d digest.Digest, limit int) ([]*ledger.Entry, error) {
	return l.byDigestBelow(ctx, d, l.Size(), limit)
}

func (l *Ledger) byDigestBelow(ctx context.Context, d digest.Digest, below int64, limit int) ([]*ledger.Entry, error) {
	key, ok := index.DigestKey([]byte(d))
	if !ok {
		return nil, fmt.Errorf("digest %.80q: only sha256 is supported", string(d))
	}
	return l.find(ctx, key, below, limit, func(e *ledger.Entry) bool { return e.Artifact != nil && e.Artifact.Names(d) })
}

// AmbiguousError says that the first digits of a digest begin several ones.
type AmbiguousError struct {
	Digits  string
	Digests []digest.Digest
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s begins several digests on the ledger, %s and %s: give more digits of the one that is meant", e.Digits, e.Digests[0], e.Digests[1])
}

// maxNamesakes bounds the blocks that are read for the first digits of a digest.
const maxNamesakes = 1000

// wholeDigest gives the digest that begins with some digits. Digits that begin
// none are filled up: no block has the result either.
func (l *Ledger) wholeDigest(ctx context.Context, digits string) (digest.Digest, error) {
	begins := digest.NewDigestFromEncoded(digest.SHA256, digits)
	filled := begins + digest.Digest(strings.Repeat("0", 2*digest.SHA256.Size()-len(digits)))
	key, _ := index.DigestKey([]byte(filled)) // MinDigits are all of it
	var found []digest.Digest
	_, err := l.find(ctx, key, l.Size(), maxNamesakes, func(e *ledger.Entry) bool {
		if e.Artifact == nil {
			return false
		}
		for _, d := range e.Artifact.Digests() {
			if strings.HasPrefix(string(d), string(begins)) && !slices.Contains(found, d) {
				found = append(found, d)
			}
		}
		return true
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return filled, nil
	case len(found) > 1:
		return "", &AmbiguousError{digits, found}
	}
	return found[0], nil
}

// Find finds the newest block that records an image with a digest.
func (l *Ledger) Find(ctx context.Context, image ledger.Image, d digest.Digest) (*ledger.Entry, error) {
	key, ok := index.DigestKey([]byte(d))
	if !ok {
		return nil, fmt.Errorf("digest %.80q: only sha256 is supported", string(d))
	}
	found, err := l.find(ctx, key, l.Size(), 1, func(e *ledger.Entry) bool { return records(e, image) && e.Artifact.Digest == d })
	if err != nil {
		return nil, fmt.Errorf("%s@%s: %w", image, d, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s@%s: %w", image, d, ledger.ErrNotFound)
	}
	return found[0], nil
}

// find reads the blocks under a key and below a height that match, newest first.
func (l *Ledger) find(ctx context.Context, key index.Key, below int64, limit int, match func(*ledger.Entry) bool) (out []*ledger.Entry, err error) {
	below = min(below, l.Size())
	for len(out) < limit && below > 0 {
		var heights []int64
		err := l.ask(ctx, func() error {
			heights = heights[:0]
			return l.index.Heights(key, below, func(h int64) bool {
				heights = append(heights, h)
				return len(heights) < limit
			})
		})
		if err != nil || len(heights) == 0 {
			return out, err
		}
		for _, h := range heights {
			e, err := l.Entry(ctx, h)
			if err != nil {
				return nil, err
			}
			if match(e) && len(out) < limit {
				out = append(out, e)
			}
			below = h
		}
	}
	return out, nil
}

// Tags lists up to limit tags of a repository that sort after the tag after.
func (l *Ledger) Tags(ctx context.Context, repository, after string, limit int) (tags []string, err error) {
	err = l.ask(ctx, func() (err error) {
		tags, err = l.index.Tags(repository, after, limit)
		return err
	})
	return tags, err
}

// Repositories lists the names of all repositories, sorted.
func (l *Ledger) Repositories() []string { return l.index.Repositories() }

// HeadSince is the head with the proof that its tree extends that of the first since
// blocks (RFC 6962, section 2.1.2), of the same moment: the ledger grows all the time.
// The proof is nil when since is not below the head; the head is without a signed
// checkpoint while there is none.
func (l *Ledger) HeadSince(ctx context.Context, since int64) (head ledger.Checkpoint, proof tlog.TreeProof, err error) {
	head, _ = l.Head()
	if since <= 0 || since >= head.Tree.N {
		return head, nil, nil
	}
	proof, err = tlog.ProveTree(head.Tree.N, since, proven{ctx, l.cache, head.Tree})
	if err != nil {
		return head, nil, fmt.Errorf("proving consistency with %d blocks: %w", since, err)
	}
	return head, proof, nil
}

// Contains checks that an earlier checkpoint is part of this copy's history.
func (l *Ledger) Contains(ctx context.Context, c ledger.Checkpoint) error {
	head, proof, err := l.HeadSince(ctx, c.Tree.N)
	if err != nil {
		return err
	}
	return ledger.VerifyConsistency(c, head, ledger.EncodeHashes(proof))
}
