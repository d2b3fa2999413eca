package replica

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// revokeAtOnce is how many blocks are withdrawn together: appends share the
// checkpoint that they wait for.
const revokeAtOnce = 256

// RevokeDigest withdraws a digest in a repository: all blocks that record it
// there, under every tag, and those to come. It returns the height of the block
// that does so when it, and one of version 1 for each block that stands, are
// under a signed checkpoint. If the digest is withdrawn already, that is the
// answer. Mirrors of version 0.1.0 know version 1 alone, and would go on serving.
func (w *Writer) RevokeDigest(ctx context.Context, repository string, d digest.Digest, reason string, now time.Time) (int64, error) {
	e := &ledger.RevokeDigest{
		Type: ledger.TypeRevokeArtifact, Version: 2, Repository: repository, Digest: d, Reason: reason, Time: now.UTC().Truncate(time.Second),
	}
	data, err := e.Marshal()
	if err != nil {
		return 0, err
	}
	// The digest's appends under way end first and none begins, so that none is
	// missed. All is bounded by the appends' own time-out, also when the caller is
	// gone.
	defer w.withdrawing.lock(repository + "@" + d.String())()
	ctx = context.WithoutCancel(ctx)
	// Crash after this: mirrors that know version 2 refuse the digest. The blocks
	// of version 1 for the others are appended by completeWithdrawals.
	height, err := w.append(ctx, repository+"@"+d.String(), data, func() (*ledger.Entry, error) { return w.Withdrawal(ctx, repository, d) })
	if err != nil {
		return 0, err
	}
	by, err := w.Entry(ctx, height)
	if err != nil {
		return 0, err
	}
	return height, w.revokeBlocks(ctx, by, now)
}

// revokeBlocks withdraws by a block of version 1 each block that one of version
// 2 withdraws and that has none yet. The caller has locked the digest, or is alone.
func (w *Writer) revokeBlocks(ctx context.Context, by *ledger.Entry, now time.Time) error {
	repository, d := by.Withdraws()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(revokeAtOnce)
	for e, err := range w.Naming(ctx, d) {
		if err != nil {
			return fmt.Errorf("withdrawing the blocks of %s@%s: %w", repository, d, err)
		}
		if e.Artifact.Digest != d || e.Artifact.Repository() != repository {
			continue // a platform's manifest: version 1 knows whole images alone
		}
		group.Go(func() error {
			_, err := w.revokeBlock(ctx, e, by.Reason(), now)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("withdrawing the blocks of %s@%s: %w", repository, d, err)
	}
	return nil
}

func (w *Writer) revokeBlock(ctx context.Context, block *ledger.Entry, reason string, now time.Time) (int64, error) {
	e := &ledger.RevokeArtifact{
		Type: ledger.TypeRevokeArtifact, Version: 1, Artifact: block.Artifact.Artifact, Digest: block.Artifact.Digest,
		Block: block.Height, Reason: reason, Time: now.UTC().Truncate(time.Second),
	}
	data, err := e.Marshal()
	if err != nil {
		return 0, err
	}
	return w.append(ctx, fmt.Sprintf("the withdrawal of block %d", block.Height), data,
		func() (*ledger.Entry, error) { return w.revocation(ctx, block) })
}

// Revoke withdraws the artifact of a block, and no other block, as version
// 0.1.0 does. It returns the height of the block that does so when it is on disk
// and under a signed checkpoint. If the block is withdrawn already, that is the
// answer.
func (w *Writer) Revoke(ctx context.Context, height int64, reason string, now time.Time) (int64, error) {
	block, err := w.Entry(ctx, height)
	if err != nil {
		return 0, err
	}
	if block.Artifact == nil {
		return 0, fmt.Errorf("block %d records no artifact: there is nothing to revoke", height)
	}
	defer w.withdrawing.lock(block.Artifact.Repository() + "@" + block.Artifact.Digest.String())()
	return w.revokeBlock(ctx, block, reason, now)
}

// completeWithdrawals appends what a process that was killed, or a publisher of
// version 0.1.0 in between, did not: a block of version 1 for each block whose
// digest is withdrawn.
func (w *Writer) completeWithdrawals(ctx context.Context, now time.Time) error {
	found, err := w.Withdrawals(ctx, 0)
	if err != nil {
		return err
	}
	for _, e := range found {
		if e.Withdrawal == nil {
			continue
		}
		by, err := w.Withdrawal(ctx, e.Withdrawal.Repository, e.Withdrawal.Digest)
		if err != nil {
			return err
		}
		if by == nil || by.Height != e.Height {
			continue // restored, or withdrawn once more
		}
		if err := w.revokeBlocks(ctx, e, now); err != nil {
			return err
		}
	}
	return nil
}

// RestoreArtifact lifts what withdraws a digest in a repository, so that it can
// be published again, and returns the height of the block that does so. If it
// was lifted already, that is the answer.
func (w *Writer) RestoreArtifact(ctx context.Context, repository string, d digest.Digest, reason string, now time.Time) (int64, error) {
	defer w.withdrawing.lock(repository + "@" + d.String())()
	by, err := w.withdrawnBy(ctx, repository, d)
	if err != nil {
		return 0, err
	}
	if by == nil {
		last, err := w.first(ctx, index.WithdrawalsKey(repository+"@"+d.String()), func(e *ledger.Entry) bool {
			return e.Restoration != nil && e.Restoration.Repository == repository && e.Restoration.Digest == d
		})
		if err == nil && last == nil {
			err = fmt.Errorf("%s@%s is not withdrawn: %w", repository, d, ledger.ErrNotFound)
		}
		if err != nil {
			return 0, err
		}
		return last.Height, nil
	}
	e := &ledger.RestoreArtifact{
		Type: ledger.TypeRestoreArtifact, Version: 1, Repository: repository, Digest: d, Block: by.Height,
		Reason: reason, Time: now.UTC().Truncate(time.Second),
	}
	data, err := e.Marshal()
	if err != nil {
		return 0, err
	}
	// Crash before: the digest stays withdrawn until this is asked for again.
	return w.append(context.WithoutCancel(ctx), repository+"@"+d.String(), data, func() (*ledger.Entry, error) { return nil, nil })
}

// withdrawnBy finds the block for which a digest may not be published in a
// repository: the newest that withdraws it, or a block of it, and is not lifted.
func (w *Writer) withdrawnBy(ctx context.Context, repository string, d digest.Digest) (*ledger.Entry, error) {
	return w.unlifted(ctx, repository, d, func(*ledger.Entry) bool { return true })
}

// Withdrawn returns a *WithdrawnError if a digest may not be published in a
// repository: it was withdrawn, and not restored.
func (w *Writer) Withdrawn(ctx context.Context, repository string, d digest.Digest) error {
	by, err := w.withdrawnBy(ctx, repository, d)
	if err == nil && by != nil {
		err = &ledger.WithdrawnError{By: by}
	}
	return err
}

// digestLocks is a lock for each digest of a repository.
type digestLocks struct {
	mu    sync.Mutex // guards what follows
	locks map[string]*digestLock
}

type digestLock struct {
	sync.RWMutex
	users int // that hold it or wait for it; guarded by digestLocks.mu
}

// lock locks a digest.
func (l *digestLocks) lock(key string) (unlock func()) {
	d := l.use(key)
	d.Lock()
	return func() { d.Unlock(); l.leave(key, d) }
}

// share locks a digest for any number of concurrent callers.
func (l *digestLocks) share(key string) (unlock func()) {
	d := l.use(key)
	d.RLock()
	return func() { d.RUnlock(); l.leave(key, d) }
}

func (l *digestLocks) use(key string) *digestLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.locks == nil {
		l.locks = map[string]*digestLock{}
	}
	d := l.locks[key]
	if d == nil {
		d = new(digestLock)
		l.locks[key] = d
	}
	d.users++
	return d
}

func (l *digestLocks) leave(key string, d *digestLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.users--; d.users == 0 {
		delete(l.locks, key)
	}
}
