package replica

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

var (
	// ErrForked is returned when a validly signed checkpoint contradicts the
	// verified ledger. Both checkpoints are kept as evidence.
	ErrForked = errors.New("the publisher signed two ledgers that contradict each other")
	// ErrRolledBack is returned when a smaller ledger was signed after a larger
	// one. Both checkpoints are kept as evidence.
	ErrRolledBack = errors.New("the publisher signed a smaller ledger than before")
)

// errStorage is in the errors of this node's own disk.
var errStorage = errors.New("storing the ledger")

// maxCopying bounds from how many sources tiles are copied in parallel.
const maxCopying = 8

// Follower keeps a verified copy of somebody else's ledger.
type Follower struct {
	*Ledger
	// Others, if there are any, are asked what they know of a new key before it is
	// followed. It is set before the first Sync.
	Others func() []torchwood.TileReader

	copying chan struct{} // a slot for each copy of tiles: up to 16 MiB are on their way in each of eight

	heard  *successors
	moving sync.Mutex // held while a ledger is set aside
	// restoring keeps what contradicts the pinned key's ledger in its place: it may
	// be the publisher's own.
	restoring bool
}

// OpenFollower opens or begins a copy at path of the ledger with key vkey.
func OpenFollower(ctx context.Context, path, vkey string, log *slog.Logger) (*Follower, error) {
	l, err := open(ctx, path, vkey, true, log)
	if err != nil {
		return nil, err
	}
	f := &Follower{Ledger: l, copying: make(chan struct{}, maxCopying), heard: newSuccessors()}
	if err := f.heard.load(l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return f, nil
}

// Sync fetches from one source the blocks that this copy lacks and verifies
// them: signature, consistency with what was verified before, and each block.
// It reports whether the copy has grown. A source that is behind is not an
// error. What is refused is kept as evidence, which names the source if it is a
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
	offer := offered{who: who, source: source, signed: signed, told: f.now().trust.rotations}
	was := f.now()
	c, err := f.verifyNext(ctx, was, &offer)
	if err != nil || c.Signed == nil {
		return false, err
	}
	if newest := was.trust.key(); f.mustAsk(was, c) {
		// Before all the blocks are fetched: it may count no more.
		if err := f.askOthers(ctx, &unaskedError{keys: []string{newest}, previous: []string{newest}}, growTimeout); err != nil {
			return false, err
		}
	}
	grown, err = f.adoptNext(ctx, was, c, &offer)
	if unasked, ok := errors.AsType[*unaskedError](err); ok {
		if err := f.askOthers(ctx, unasked, askTimeout); err != nil {
			return false, err
		}
		grown, err = f.adoptNext(ctx, was, c, &offer)
	}
	return grown, err
}

// offered is what a source offers.
type offered struct {
	who    string
	source torchwood.TileReader
	signed []byte
	told   []ledger.Rotation
}

// adoptNext makes a checkpoint the head that the next key may sign, if it is newer.
func (f *Follower) adoptNext(ctx context.Context, was *position, c ledger.Checkpoint, offer *offered) (grown bool, err error) {
	head, ok := was.at()
	before := f.before.Load()
	if !ok && before != nil {
		head = *before
		if key, height := f.misused(before, offer.told); key != "" && height < c.Tree.N && c.Tree.N < head.Tree.N {
			return f.adoptInstead(ctx, before, c, offer)
		}
	}
	if c.Tree.N < head.Tree.N {
		err := f.checkOlder(ctx, head, c)
		if errors.Is(err, ErrForked) || errors.Is(err, ErrRolledBack) {
			err = f.refuseOffer(ctx, c, offer, f.blame(ctx, was.trust, c, err))
		}
		return false, err
	}
	if ok && c.Tree == head.Tree {
		return false, f.refresh(ctx, head, c)
	}
	if err := mustSayWhen(c, head); err != nil {
		return false, f.refuseOffer(ctx, c, offer, err)
	}
	if r, can := offer.source.(entryReader); can && ok && head.Tree.N > 0 && c.Tree.N > head.Tree.N && c.Tree.N-head.Tree.N <= maxGrowth {
		err := f.grow(ctx, r, head, c, offer)
		// A source that does not answer for entries is not asked for tiles.
		if err == nil || errors.Is(err, errHandOver) || errors.Is(err, ledger.ErrSilent) {
			return err == nil, f.refuseOffer(ctx, c, offer, err)
		}
		// Whatever the reason, the tiles tell: a fork, or a source without entries.
	}
	err = f.adopt(ctx, head, c, offer, true)
	if err != nil && !errors.Is(err, ErrForked) && !errors.Is(err, errHandOver) && !errors.Is(err, ledger.ErrSilent) && ctx.Err() == nil {
		// A tile on this disk may be bad: once more, all from the source.
		err = f.adopt(ctx, head, c, offer, false)
	}
	if errors.Is(err, ErrForked) && !ok && before != nil {
		if key, _ := f.misused(before, offer.told); key != "" {
			return f.adoptInstead(ctx, before, c, offer)
		}
	}
	if errors.Is(err, ErrForked) {
		err = f.blame(ctx, was.trust, c, err)
	}
	if err == nil {
		f.before.Store(nil)
	}
	return err == nil, f.refuseOffer(ctx, c, offer, err)
}

// refuseOffer keeps the evidence of a checkpoint that was not adopted, if there
// is an error that says why.
func (f *Follower) refuseOffer(ctx context.Context, c ledger.Checkpoint, offer *offered, err error) error {
	e := ledger.Evidence{Kind: ledger.EvidenceBadData, Peer: offer.who, Received: string(c.Signed)}
	_, unasked := errors.AsType[*unaskedError](err)
	switch {
	case err == nil || ctx.Err() != nil || unasked || errors.Is(err, ledger.ErrNoAnswer) || errors.Is(err, errStorage) || errors.Is(err, errBefore):
		return err // nothing was sent that could be held against anyone
	case errors.Is(err, ErrTwoSuccessors):
		e.Kind = ledger.EvidenceTwoSuccessors
		if both, ok := errors.AsType[*twoSuccessorsError](err); ok {
			e.Rotations = both.rotations
		}
	case errors.Is(err, errUnsigned):
		e.Kind = ledger.EvidenceBadSignature
	case errors.Is(err, ErrRetiredKey):
		e.Kind, e.Key = ledger.EvidenceRetiredKey, c.Signers[0]
	case errors.Is(err, ErrForked):
		e.Kind = ledger.EvidenceFork
	case errors.Is(err, ErrRolledBack):
		e.Kind = ledger.EvidenceRollback
	case errors.Is(err, errHandOver), errors.Is(err, errNoTime):
		e.Kind = ledger.EvidenceBadSignature
	}
	if fork, ok := errors.AsType[*forkedError](err); ok {
		e.Verified, e.Root, e.Proof = string(fork.head.Signed), fork.proof.Root, fork.proof.Proof
	}
	return f.refuse(e, err, c.Signers...)
}

// refuse keeps the evidence of what some keys signed, and returns why it was refused.
func (f *Follower) refuse(e ledger.Evidence, err error, signers ...string) error {
	e.Message = err.Error()
	return errors.Join(err, f.keepEvidence(e, signers...))
}

// checkOlder looks at a checkpoint that is smaller than the head. A peer may
// be behind; but what the publisher signed must be in the verified ledger, and
// must not be newer by its clock.
func (f *Follower) checkOlder(ctx context.Context, head, c ledger.Checkpoint) error {
	if f.before.Load() != nil {
		return nil // the head's tree is not verified by this key yet
	}
	root, err := f.rootAt(ctx, head.Tree, c.Tree.N)
	if err != nil {
		return err
	}
	switch {
	case root != c.Tree.Hash:
		return newForkedError(head, c, c.Tree.N, root, c.Tree.Hash, head.Tree, proven{ctx, f.cache, head.Tree})
	case rolledBack(c, head, time.Now()):
		return fmt.Errorf("%w: %d blocks at %s, and %d blocks at %s", ErrRolledBack,
			head.Tree.N, head.Time.Format(time.RFC3339), c.Tree.N, c.Time.Format(time.RFC3339))
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
func (f *Follower) refresh(ctx context.Context, head, c ledger.Checkpoint) error {
	if !follows(c, head, time.Now()) || len(f.heard.outside(f.now().trust)) > 0 {
		return nil // nor is a key alive that has handed the ledger over
	}
	return f.advance(ctx, f.dir, c, nil, func(next *trust) error { return f.store(next.own(c)) })
}

// store makes c the stored checkpoint.
func (f *Follower) store(c ledger.Checkpoint) error {
	// Crash before this write: tiles without a checkpoint, which the next
	// sync uses; an index that is ahead, which the next start rebuilds.
	if err := durable.WriteFile(filepath.Join(f.dir.path, checkpointFile), c.Signed); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

// adopt makes c the head after verifying all that is new under it.
func (f *Follower) adopt(ctx context.Context, head, c ledger.Checkpoint, offer *offered, useLocal bool) error {
	select {
	case f.copying <- struct{}{}:
		defer func() { <-f.copying }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tr := &copier{dir: f.dir, source: offer.source, useLocal: useLocal}
	// Until c is known to extend the head, its tiles must not take the place of those
	// that were verified.
	if err := f.checkGrowth(ctx, discarding{tr}, head, c); err != nil {
		return err
	}
	return f.commit(ctx, tr, c, offer)
}

// commit indexes what tr has under c, and makes c the stored checkpoint and
// the head.
func (f *Follower) commit(ctx context.Context, tr *copier, c ledger.Checkpoint, offer *offered) error {
	err := f.advance(ctx, tr, c, offer.told, func(next *trust) error {
		if err := f.maySign(next, c); err != nil {
			return err
		}
		if err := tr.sync(); err != nil {
			return err
		}
		if err := f.keepRotations(next); err != nil {
			return err
		}
		if err := f.tellNewKeys(next, c, offer.who); err != nil {
			return err
		}
		return f.store(next.own(c))
	})
	if err != nil {
		return errors.Join(err, f.forget(ctx))
	}
	return tr.dropNarrower()
}

// checkGrowth proves that c extends head: the root of c's first head.N blocks,
// from tiles that are authenticated by c, must be head's root.
func (f *Follower) checkGrowth(ctx context.Context, tr torchwood.TileReader, head, c ledger.Checkpoint) error {
	if head.Tree.N == 0 {
		return nil
	}
	root := c.Tree.Hash
	hashes := torchwood.TileHashReaderWithContext(ctx, c.Tree, tr)
	if c.Tree.N != head.Tree.N {
		var err error
		if root, err = tlog.TreeHash(head.Tree.N, hashes); err != nil {
			return fmt.Errorf("checking consistency: %w", err)
		}
	}
	if root == head.Tree.Hash {
		return nil
	}
	return newForkedError(head, c, head.Tree.N, head.Tree.Hash, root, c.Tree, hashes)
}

// Age is how long ago the publisher signed the head, by its clock; or since when this
// node has it, over restarts, if that clock is ahead, or the publisher does not say.
func (l *Ledger) Age(now time.Time) time.Duration {
	at := l.now()
	if at.head == nil {
		return 0
	}
	signed := at.head.Said(now)
	if signed.IsZero() {
		signed = at.since
	}
	return max(0, now.Sub(signed))
}

// errNoTime is returned for a checkpoint without its time, of a ledger that says it.
var errNoTime = errors.New("the checkpoint does not say when it was signed")

// mustSayWhen refuses a checkpoint without a time if the head has one. Anyone can
// strip the publisher's cosignature, and a mirror that is cut off from its
// publisher would not become stale. Ledgers whose checkpoints never had a time are
// followed: they are as old as this node has had them.
func mustSayWhen(c, head ledger.Checkpoint) error {
	if head.Time.IsZero() || !c.Time.IsZero() {
		return nil
	}
	return fmt.Errorf("%w: the one of %d blocks does, so somebody has taken the time off this one of %d: fetch it from another peer", errNoTime, head.Tree.N, c.Tree.N)
}

// follows tells whether a checkpoint is to replace the head: it has more blocks,
// or as many and was signed later. A time that has not come yet is the least that
// a checkpoint can say.
func follows(c, head ledger.Checkpoint, now time.Time) bool {
	if c.Tree.N != head.Tree.N {
		return c.Tree.N > head.Tree.N
	}
	is, was := c.Said(now), head.Said(now)
	if is.IsZero() && was.IsZero() {
		return c.Time.After(head.Time)
	}
	return is.After(was)
}

// rolledBack tells whether a checkpoint with fewer blocks than the head was signed
// later, as far as both times can be believed.
func rolledBack(c, head ledger.Checkpoint, now time.Time) bool {
	is, was := c.Said(now), head.Said(now)
	return c.Tree.N < head.Tree.N && !was.IsZero() && is.After(was.Add(ledger.ClockSlack))
}
