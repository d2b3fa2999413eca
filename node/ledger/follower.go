package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// ErrForked is returned when a validly signed checkpoint contradicts the
// verified ledger. Both checkpoints are kept as evidence.
var ErrForked = errors.New("the publisher signed two ledgers that contradict each other")

// evidenceDir holds signed checkpoints that contradict the verified ledger.
const evidenceDir = "evidence"

// maxEvidence bounds the files in evidenceDir; one is proof enough.
const maxEvidence = 100

// Follower keeps a verified copy of somebody else's ledger.
type Follower struct{ *Ledger }

// OpenFollower opens or begins a copy at path of the ledger with key vkey.
func OpenFollower(ctx context.Context, path, vkey string, log *slog.Logger) (*Follower, error) {
	l, err := open(ctx, path, vkey, log)
	if err != nil {
		return nil, err
	}
	return &Follower{l}, nil
}

// Sync fetches from one source the blocks that this copy lacks and verifies
// them: signature, consistency with what was verified before, and each block.
// It reports whether the copy has grown. A source that is behind is no error.
func (f *Follower) Sync(ctx context.Context, source torchwood.TileReader) (grown bool, err error) {
	signed, err := source.ReadEndpoint(ctx, checkpointFile)
	if err != nil {
		return false, fmt.Errorf("asking for a checkpoint: %w", err)
	}
	c, err := VerifyCheckpoint(f.key, signed)
	if err != nil {
		return false, err
	}
	head, ok := f.Head()
	if ok && c.Tree.N == head.Tree.N && c.Tree.Hash == head.Tree.Hash || ok && c.Tree.N < head.Tree.N {
		return false, nil
	}
	if r, can := source.(entryReader); can && ok && head.Tree.N > 0 && c.Tree.N-head.Tree.N <= maxGrowth {
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
	return err == nil, err
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
		// Crash before this write: tiles without a checkpoint, which the next
		// sync uses; an index that is ahead, which the next start rebuilds.
		return durable.WriteFile(filepath.Join(f.dir.path, checkpointFile), c.Signed)
	})
	if err != nil {
		// What was indexed before the failure is not stored again.
		return errors.Join(err, tr.sync())
	}
	return nil
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
	err := fmt.Errorf("%w: at %d blocks, root %s was verified and the new checkpoint of %d blocks has root %s",
		ErrForked, head.Tree.N, head.Tree.Hash, c.Tree.N, root)
	return errors.Join(err, f.keepEvidence(head, c))
}

func (f *Follower) keepEvidence(head, c Checkpoint) error {
	path := filepath.Join(f.dir.path, evidenceDir)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	kept, err := os.ReadDir(path)
	if err != nil || len(kept) >= maxEvidence {
		return err
	}
	name := filepath.Join(path, fmt.Sprintf("fork-%s.txt", time.Now().UTC().Format("20060102T150405.000")))
	// Crash: the evidence is whole or absent; the same checkpoint comes again.
	return durable.WriteFile(name, fmt.Appendf(nil, "verified:\n%s\ncontradicting:\n%s", head.Signed, c.Signed))
}
