package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/torchwood"
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"
)

// Entry is a verified block as it is on this node's copy.
type Entry struct {
	Height int64
	Data   []byte // the entry's bytes
	// At most one of these is set: none when the block's type is unknown.
	Artifact    *AddArtifact
	Revocation  *RevokeArtifact  // of one block
	Withdrawal  *RevokeDigest    // of all blocks with a digest
	Restoration *RestoreArtifact // of what was withdrawn
	Rotation    *RotateKey
}

// Entry reads the block at a height, checked against the head.
func (l *Ledger) Entry(ctx context.Context, height int64) (*Entry, error) {
	head, ok := l.Head()
	if !ok || height < 0 || height >= head.Tree.N {
		return nil, fmt.Errorf("block %d: %w", height, ErrNotFound)
	}
	if e, ok := l.entries.Get(height); ok {
		return e, nil
	}
	data, err := l.readEntry(ctx, head.Tree, height)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	e := &Entry{Height: height, Data: data}
	if err := e.parse(); err != nil && !errors.Is(err, ErrUnknownEntry) {
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
	damaged, ok := errors.AsType[*damagedError](err)
	if !ok {
		return err
	}
	l.log.Warn("making a piece of the index again", "error", err)
	if rerr := l.reindex(ctx, damaged.segment); rerr != nil {
		return errors.Join(err, rerr)
	}
	return question()
}

// reindex makes a damaged segment again from its bundles.
func (l *Ledger) reindex(ctx context.Context, damaged *segment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.index.uses(damaged) {
		return nil // a concurrent call was faster
	}
	head, _ := l.Head()
	return l.remake(ctx, damaged, head.Tree)
}

// remake makes a segment of a tree again; the caller holds mu.
func (l *Ledger) remake(ctx context.Context, damaged *segment, tree tlog.Tree) error {
	p := proven{ctx, l.cache.over(l.dir), tree}
	again := newTail(damaged.from)
	for again.end() < damaged.to {
		b, err := l.checkBundle(p, again.end())
		if err != nil {
			return fmt.Errorf("making %s again: %w", damaged.file, err)
		}
		again.add(b)
		batches.Put(b)
	}
	return l.index.replace(damaged, again)
}

func (e *Entry) parse() error {
	artifact, err := ParseEntry(e.Data)
	if err == nil {
		e.Artifact = artifact
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	revocation, err := ParseRevocation(e.Data)
	if err == nil {
		e.Revocation = revocation
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	withdrawal, err := ParseWithdrawal(e.Data)
	if err == nil {
		e.Withdrawal = withdrawal
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	restoration, err := ParseRestoration(e.Data)
	if err == nil {
		e.Restoration = restoration
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	rotation, err := ParseRotation(e.Data)
	if err == nil {
		e.Rotation = rotation
	}
	return err
}

// Block reads the block at a height, with a tlog-proof under the head.
func (l *Ledger) Block(ctx context.Context, height int64) (*Entry, []byte, error) {
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
func (l *Ledger) Prove(ctx context.Context, height int64, c Checkpoint) (tlog.RecordProof, error) {
	proof, err := tlog.ProveRecord(c.Tree.N, height, proven{ctx, l.cache, c.Tree})
	if err != nil {
		return nil, fmt.Errorf("proving block %d: %w", height, err)
	}
	return proof, nil
}

// Latest finds the newest block of an image.
func (l *Ledger) Latest(ctx context.Context, image Image) (*Entry, error) {
	found, err := l.find(ctx, imageKey([]byte(image.String())), l.Size(), 1, image.isOf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", image, ErrNotFound)
	}
	return found[0], nil
}

// History lists up to limit blocks of an image, newest first.
func (l *Ledger) History(ctx context.Context, image Image, limit int) ([]*Entry, error) {
	return l.historyBelow(ctx, image, l.Size(), limit)
}

func (l *Ledger) historyBelow(ctx context.Context, image Image, below int64, limit int) ([]*Entry, error) {
	return l.find(ctx, imageKey([]byte(image.String())), below, limit, image.isOf)
}

func (i Image) isOf(e *Entry) bool { return e.Artifact != nil && e.Artifact.Name() == i.String() }

// ByDigest lists up to limit blocks that name a digest (of an artifact, a
// platform's manifest, an image ID or a piece list), newest first.
func (l *Ledger) ByDigest(ctx context.Context, d digest.Digest, limit int) ([]*Entry, error) {
	return l.byDigestBelow(ctx, d, l.Size(), limit)
}

func (l *Ledger) byDigestBelow(ctx context.Context, d digest.Digest, below int64, limit int) ([]*Entry, error) {
	key, ok := digestKey([]byte(d))
	if !ok {
		return nil, fmt.Errorf("digest %.80q: only sha256 is supported", string(d))
	}
	return l.find(ctx, key, below, limit, func(e *Entry) bool { return e.Artifact != nil && e.Artifact.Names(d) })
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

// firstDigits are those of a digest that is cut, and lead to it still.
func firstDigits(d digest.Digest) (digits string, cut bool) {
	digits, _ = cutAlgorithm(string(d))
	return strings.ToLower(digits), isDigits(digits) && MinDigits <= len(digits) && len(digits) < digestDigits
}

// wholeDigest gives the digest that begins with some digits. Digits that begin
// none are filled up: no block has the result either.
func (l *Ledger) wholeDigest(ctx context.Context, digits string) (digest.Digest, error) {
	begins := digest.NewDigestFromEncoded(digest.SHA256, digits)
	filled := begins + digest.Digest(strings.Repeat("0", digestDigits-len(digits)))
	key, _ := digestKey([]byte(filled)) // MinDigits are all of it
	var found []digest.Digest
	_, err := l.find(ctx, key, l.Size(), maxNamesakes, func(e *Entry) bool {
		if e.Artifact == nil {
			return false
		}
		for _, d := range e.Artifact.digests() {
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
func (l *Ledger) Find(ctx context.Context, image Image, d digest.Digest) (*Entry, error) {
	key, ok := digestKey([]byte(d))
	if !ok {
		return nil, fmt.Errorf("digest %.80q: only sha256 is supported", string(d))
	}
	found, err := l.find(ctx, key, l.Size(), 1, func(e *Entry) bool { return image.isOf(e) && e.Artifact.Digest == d })
	if err != nil {
		return nil, fmt.Errorf("%s@%s: %w", image, d, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s@%s: %w", image, d, ErrNotFound)
	}
	return found[0], nil
}

// find reads the blocks under a key and below a height that match, newest first.
func (l *Ledger) find(ctx context.Context, key indexKey, below int64, limit int, match func(*Entry) bool) (out []*Entry, err error) {
	below = min(below, l.Size())
	for len(out) < limit && below > 0 {
		var heights []int64
		err := l.ask(ctx, func() error {
			heights = heights[:0]
			return l.index.heights(key, below, func(h int64) bool {
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
		tags, err = l.index.tagsOf(repository, after, limit)
		return err
	})
	return tags, err
}

// Repositories lists the names of all repositories, sorted.
func (l *Ledger) Repositories() []string { return l.index.repositories() }

// HeadSince is the head with the proof that its tree extends that of the first since
// blocks (RFC 6962, section 2.1.2), of the same moment: the ledger grows all the time.
// The proof is nil when since is not below the head; the head is without a signed
// checkpoint while there is none.
func (l *Ledger) HeadSince(ctx context.Context, since int64) (head Checkpoint, proof tlog.TreeProof, err error) {
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
func (l *Ledger) Contains(ctx context.Context, c Checkpoint) error {
	head, proof, err := l.HeadSince(ctx, c.Tree.N)
	if err != nil {
		return err
	}
	return VerifyConsistency(c, head, EncodeHashes(proof))
}
