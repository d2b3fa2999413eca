package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ErrDamaged is returned when the ledger on the disk is not what was verified
// and signed before.
var ErrDamaged = errors.New("the ledger on this disk is damaged: end this process and run 'pyrsia fsck'")

// guardedSigner signs a checkpoint only when this writer has verified every
// block under it, and that it extends what was signed before: a damaged disk
// must never become a signed second history.
type guardedSigner struct {
	note.Signer
	w *Writer
}

// Sign implements note.Signer.
func (s guardedSigner) Sign(msg []byte) ([]byte, error) {
	blocks, err := s.w.mayBeSigned(string(msg))
	s.w.signings.note(blocks, err)
	if err != nil {
		return nil, err
	}
	return s.Signer.Sign(msg)
}

// guard makes the signers of checkpoints: each key's signature, and its
// cosignature with the time.
func (w *Writer) guard(keys []ledger.SigningKey) (signers []note.Signer) {
	for _, k := range keys {
		signers = append(signers, guardedSigner{k.Signer, w})
	}
	for _, k := range keys {
		signers = append(signers, guardedSigner{k.Clock, w})
	}
	return signers
}

// errClosed is why Tessera, whose background work outlives Close by a moment,
// gets no signature any more: the ledger may be another process's by now.
var errClosed = errors.New("signing: the ledger is closed")

// mayBeSigned tells whether a checkpoint may be signed, and of how many blocks it is.
func (w *Writer) mayBeSigned(text string) (blocks int64, err error) {
	if w.closed.Load() {
		return 0, errClosed
	}
	c, err := torchwood.ParseCheckpoint(text)
	if err != nil {
		return 0, fmt.Errorf("signing: %w", err)
	}
	if err := w.verify(context.Background(), c.Tree); err != nil {
		w.log.Error("a checkpoint is not signed", "alarm", true, "blocks", c.N, "error", err)
		return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return c.N, nil
}

// verify checks a tree on this disk: it extends the head, and each of its
// blocks is under its root.
func (w *Writer) verify(ctx context.Context, tree tlog.Tree) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	head, _ := w.Head()
	if tree == head.Tree {
		return nil // verified when it became the head
	}
	if tree.N < head.Tree.N {
		return fmt.Errorf("%d blocks are fewer than the %d that were signed before", tree.N, head.Tree.N)
	}
	if tree.N == 0 {
		if tree.Hash != emptyRoot {
			return errors.New("the root of an empty ledger is another one")
		}
		return nil
	}
	root, err := w.rootAt(ctx, tree, head.Tree.N)
	if err != nil {
		return err
	}
	if head.Tree.N > 0 && root != head.Tree.Hash {
		return fmt.Errorf("at %d blocks the root is %s, and %s was signed before", head.Tree.N, root, head.Tree.Hash)
	}
	return w.indexTo(ctx, w.dir, tree)
}

// signings tells callers that wait for a checkpoint that it was signed, or why
// not.
type signings struct {
	mu      sync.Mutex    // guards what follows
	blocks  int64         // of the largest tree that was signed; -1 before the first one
	err     error         // why the newest checkpoint was not signed; nil if it was
	changed chan struct{} // closed when any of this changes
}

func newSignings() *signings { return &signings{blocks: -1, changed: make(chan struct{})} }

// note takes what came of one checkpoint.
func (s *signings) note(blocks int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.blocks = max(s.blocks, blocks)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// failure is why the newest checkpoint was not signed; nil if it was.
func (s *signings) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// await returns when a tree of at least so many blocks was signed, or the newest one
// was not.
func (s *signings) await(ctx context.Context, blocks int64) error {
	for {
		s.mu.Lock()
		signed, err, changed := s.blocks, s.err, s.changed
		s.mu.Unlock()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || signed >= blocks {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
