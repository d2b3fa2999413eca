package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

var (
	// ErrForked is returned when a validly signed checkpoint contradicts the
	// verified ledger. Both checkpoints are kept as evidence.
	ErrForked = errors.New("the publisher signed two ledgers that contradict each other")
	// ErrRolledBack is returned when a smaller ledger was signed after a larger
	// one. Both checkpoints are kept as evidence.
	ErrRolledBack = errors.New("the publisher signed a smaller ledger than before")
)

// clockSlack is by how much the publisher's clock may be set back before that
// is taken for a ledger that was rolled back.
const clockSlack = 2 * time.Minute

// Follower keeps a verified copy of somebody else's ledger.
type Follower struct{ *Ledger }

// OpenFollower opens or begins a copy at path of the ledger with key vkey.
func OpenFollower(ctx context.Context, path, vkey string, log *slog.Logger) (*Follower, error) {
	l, err := open(ctx, path, vkey, true, log)
	if err != nil {
		return nil, err
	}
	return &Follower{Ledger: l}, nil
}

// Sync fetches from one source the blocks that this copy lacks and verifies
// them: signature, consistency with what was verified before, and each block.
// It reports whether the copy has grown. A source that is behind is no error.
// What is refused is kept as evidence, which names the source if it is a
// fmt.Stringer.
func (f *Follower) Sync(ctx context.Context, source torchwood.TileReader) (grown bool, err error) {
	who := "a peer"
	if s, ok := source.(fmt.Stringer); ok {
		who = s.String()
	}
	signed, err := source.ReadEndpoint(ctx, checkpointFile)
	if err != nil {
		return false, fmt.Errorf("asking for a checkpoint: %w", err)
	}
	head, ok := f.Head()
	c, err := f.verifyNext(ctx, source, head, signed)
	if err != nil {
		return false, f.refuse(Evidence{Kind: EvidenceBadSignature, Peer: who, Received: string(signed)}, err)
	}
	if before := f.before.Load(); !ok && before != nil {
		head = *before
	}
	if c.Tree.N < head.Tree.N {
		return false, f.checkOlder(ctx, head, c, who)
	}
	if ok && c.Tree == head.Tree {
		return false, f.refresh(ctx, head, c)
	}
	if r, can := source.(entryReader); can && ok && head.Tree.N > 0 && c.Tree.N > head.Tree.N && c.Tree.N-head.Tree.N <= maxGrowth {
		if err := f.grow(ctx, r, head, c); err == nil {
			return true, nil
		}
		// Whatever the reason, the tiles tell: a fork, or a source without entries.
	}
	err = f.adopt(ctx, source, head, c, true)
	if err != nil && !errors.Is(err, ErrForked) && ctx.Err() == nil {
		// A tile on this disk may be bad: once more, all from the source.
		err = f.adopt(ctx, source, head, c, false)
	}
	switch {
	case err == nil:
		f.before.Store(nil)
		return true, nil
	case errors.Is(err, ErrForked):
		return false, f.refuse(Evidence{Kind: EvidenceFork, Peer: who, Received: string(c.Signed)}, err)
	case ctx.Err() != nil || errors.Is(err, errSource) || errors.Is(err, errStorage):
		return false, err // nothing was sent that could be held against anyone
	default:
		return false, f.refuse(Evidence{Kind: EvidenceBadData, Peer: who, Received: string(c.Signed)}, err)
	}
}

// refuse keeps the evidence, and returns why something was refused.
func (f *Follower) refuse(e Evidence, err error) error {
	e.Message = err.Error()
	return errors.Join(err, f.keepEvidence(e))
}

// verifyNext verifies the signature of a checkpoint that may follow on the
// head. One that no trusted key signed may be by a key that the source can
// prove to be the next.
func (f *Follower) verifyNext(ctx context.Context, source torchwood.TileReader, head Checkpoint, signed []byte) (Checkpoint, error) {
	c, err := VerifyCheckpoint(f.verifier.Load().after(head), signed)
	if err == nil {
		return c, nil
	}
	r, ok := source.(rotationReader)
	if !ok {
		return c, err
	}
	rotations, rerr := r.ReadRotations(ctx)
	if rerr != nil || f.trust(rotations) != nil {
		return c, err // the source's rotations prove nothing to us
	}
	return VerifyCheckpoint(f.verifier.Load().after(head), signed)
}

// checkOlder looks at a checkpoint that is smaller than the head. A peer may
// be behind; but what the publisher signed must be in the verified ledger, and
// must not be newer by its clock.
func (f *Follower) checkOlder(ctx context.Context, head, c Checkpoint, who string) error {
	if f.before.Load() != nil {
		return nil // the head's tree is not verified by this key yet
	}
	root, err := f.rootAt(ctx, head.Tree, c.Tree.N)
	if err != nil {
		return err
	}
	switch {
	case root != c.Tree.Hash:
		err := fmt.Errorf("%w: at %d blocks, root %s was verified and the checkpoint has root %s", ErrForked, c.Tree.N, root, c.Tree.Hash)
		return f.refuse(Evidence{Kind: EvidenceFork, Peer: who, Received: string(c.Signed)}, err)
	case !head.Time.IsZero() && c.Time.After(head.Time.Add(clockSlack)):
		err := fmt.Errorf("%w: %d blocks at %s, and %d blocks at %s", ErrRolledBack,
			head.Tree.N, head.Time.Format(time.RFC3339), c.Tree.N, c.Time.Format(time.RFC3339))
		return f.refuse(Evidence{Kind: EvidenceRollback, Peer: who, Received: string(c.Signed)}, err)
	default:
		return nil
	}
}

// rootAt is the root of a verified tree's first size blocks.
func (l *Ledger) rootAt(ctx context.Context, tree tlog.Tree, size int64) (tlog.Hash, error) {
	if size == 0 {
		return emptyRoot, nil
	}
	root, err := proven{ctx, l.cache, tree}.root(size)
	if err != nil {
		return root, fmt.Errorf("reading the ledger at %d blocks: %w", size, err)
	}
	return root, nil
}

// emptyRoot is the root of a ledger without blocks (RFC 6962, section 2.1).
var emptyRoot = tlog.Hash(sha256.Sum256(nil))

// refresh keeps a newer signature of the same ledger: the publisher lives.
func (f *Follower) refresh(ctx context.Context, head, c Checkpoint) error {
	if !c.Time.After(head.Time) {
		return nil
	}
	return f.advance(ctx, f.dir, c, func() error { return f.store(c) })
}

// store makes c the stored checkpoint.
func (f *Follower) store(c Checkpoint) error {
	// Crash before this write: tiles without a checkpoint, which the next
	// sync uses; an index that is ahead, which the next start rebuilds.
	if err := durable.WriteFile(filepath.Join(f.dir.path, checkpointFile), c.Signed); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

// adopt makes c the head after verifying all that is new under it.
func (f *Follower) adopt(ctx context.Context, source torchwood.TileReader, head, c Checkpoint, useLocal bool) error {
	tr := &copier{dir: f.dir, source: source, useLocal: useLocal}
	if err := f.checkGrowth(ctx, tr, head, c); err != nil {
		return err
	}
	return f.commit(ctx, tr, c)
}

// commit indexes what tr has under c, and makes c the stored checkpoint and
// the head.
func (f *Follower) commit(ctx context.Context, tr *copier, c Checkpoint) error {
	err := f.advance(ctx, tr, c, func() error {
		if err := tr.sync(); err != nil {
			return err
		}
		return f.store(c)
	})
	if err != nil {
		return errors.Join(err, f.forget(ctx))
	}
	return tr.dropNarrower()
}

// checkGrowth proves that c extends head: the root of c's first head.N blocks,
// from tiles that are authenticated by c, must be head's root.
func (f *Follower) checkGrowth(ctx context.Context, tr torchwood.TileReader, head, c Checkpoint) error {
	if head.Tree.N == 0 {
		return nil
	}
	root := c.Tree.Hash
	if c.Tree.N != head.Tree.N {
		var err error
		if root, err = tlog.TreeHash(head.Tree.N, torchwood.TileHashReaderWithContext(ctx, c.Tree, tr)); err != nil {
			return fmt.Errorf("checking consistency: %w", err)
		}
	}
	if root == head.Tree.Hash {
		return nil
	}
	return fmt.Errorf("%w: at %d blocks, root %s was verified and the new checkpoint of %d blocks has root %s",
		ErrForked, head.Tree.N, head.Tree.Hash, c.Tree.N, root)
}
