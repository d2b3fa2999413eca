package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/sync/singleflight"

	"github.com/pyrsia/pyrsia-operator/node/internal/turn"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	batchSize          = 256
	batchAge           = 50 * time.Millisecond
	checkpointInterval = 200 * time.Millisecond
	// checkpointWrite is how long a checkpoint that was signed takes to be on disk:
	// nothing says when it is.
	checkpointWrite   = 5 * time.Millisecond
	checkpointTimeout = 30 * time.Second

	// RefreshInterval is how often a publisher signs the ledger again, with the
	// time, although nothing was appended.
	RefreshInterval = time.Minute
)

// ErrBehind is returned when the ledger on this disk does not contain a
// checkpoint that was seen before: the disk was rolled back or replaced, and
// to append would sign a second history.
var ErrBehind = errors.New("the ledger on this disk is behind a checkpoint that was published before")

// ErrSuperseded is returned when an image got a newer block than what was seen
// at its upstream, or one with more platforms than what is to be appended.
var ErrSuperseded = errors.New("the image has a newer block")

// Writer appends to the ledger. There is one per ledger, held by a file lock.
type Writer struct {
	*Ledger
	appender *tessera.Appender
	reader   tessera.LogReader
	shutdown func(context.Context) error
	reading  singleflight.Group // one wait for the next checkpoint, shared by all appends
	stop     context.CancelFunc
	done     sync.WaitGroup

	adds     sync.WaitGroup // appends whose blocks have no checkpoint yet; each is bounded
	signings *signings
	closed   atomic.Bool // nothing is signed any more

	// withdrawing is shared while an artifact is appended, by its repository and
	// digest, from the question whether that is withdrawn until its block's fate is
	// known, and held while it is withdrawn or restored: so no block escapes, and
	// what is about other digests goes on.
	withdrawing digestLocks

	appending turn.Turns // of images: those of different ones run together, and share batches
}

// OpenWriter opens or begins the ledger at path. signingKey holds its key, and
// on a second line the key to which the ledger is to be handed over: as long as
// both are given, both sign, and the ledger records that the second one follows.
func OpenWriter(ctx context.Context, path, signingKey string, log *slog.Logger) (*Writer, error) {
	keys, err := ledger.ReadSigningKeys(signingKey)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, path, keys[0].Key, false, log)
	if err != nil {
		return nil, err
	}
	w := &Writer{Ledger: l, signings: newSignings()}
	if err := w.start(ctx, keys); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the ledger in %s: %w", path, err), w.Close())
	}
	return w, nil
}

func (w *Writer) start(ctx context.Context, keys []ledger.SigningKey) error {
	if w.before.Load() != nil {
		return fmt.Errorf("the ledger in %s was signed by another key than %s: to hand it over, give the old key and on a second line the new one, until the mirrors have seen it", w.dir.path, w.vkey)
	}
	if err := w.requireKey(keys); err != nil {
		return err
	}
	if err := w.recoverState(ctx); err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: w.dir.path})
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	signers := w.guard(keys)
	// Background work ends with Close, not with the caller's context.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.appender, w.shutdown, w.reader, err = tessera.NewAppender(run, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signers[0], signers[1:]...).
		WithCheckpointInterval(checkpointInterval).
		WithCheckpointRepublishInterval(RefreshInterval).
		WithBatching(batchSize, batchAge))
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	if err := w.signPending(ctx); err != nil {
		return err
	}
	w.done.Go(func() { w.refresh(run) })
	return errors.Join(w.rotate(ctx, keys, time.Now()), w.completeWithdrawals(ctx, time.Now()))
}

// refresh makes the head what the publisher signs again when nothing is
// appended, so that mirrors see that it lives.
func (w *Writer) refresh(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(RefreshInterval):
		}
		if _, err, _ := w.reading.Do("", w.readCheckpoint); err != nil {
			w.log.Error("reading the ledger's checkpoint", "error", err)
		}
	}
}

// signPending waits until everything that a former process integrated is under a
// signed checkpoint and indexed, so that an append which was repeated because
// its acknowledgement was lost finds the block that it made.
func (w *Writer) signPending(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	for {
		size, err := w.reader.IntegratedSize(ctx)
		if err != nil {
			return fmt.Errorf("opening the ledger: %w", err)
		}
		signed, err := w.reader.ReadCheckpoint(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("opening the ledger: %w", err)
		}
		if err == nil {
			c, err := w.VerifyCheckpoint(signed)
			if err != nil {
				return fmt.Errorf("opening the ledger: %w", err)
			}
			if uint64(c.Tree.N) == size {
				return w.advance(ctx, w.dir, c, nil, w.keepRotations)
			}
		}
		if err := w.signings.await(ctx, int64(size)); err != nil {
			return fmt.Errorf("opening the ledger: waiting for a checkpoint of %d blocks: %w", size, err)
		}
		<-time.After(checkpointWrite)
	}
}

// Append records an artifact and returns its height when the block is on disk
// and under a signed checkpoint. If the image's newest block has this digest
// already, with all the platforms, that block is the answer. On ctx's end the
// block may still appear; to append again is safe.
func (w *Writer) Append(ctx context.Context, e *ledger.AddArtifact) (int64, error) {
	return w.appendUnless(ctx, e, func(latest *ledger.Entry) (bool, error) { return w.answers(ctx, latest, e) })
}

// answers tells whether an image's newest block says all that an entry would
// say, and stands.
func (w *Writer) answers(ctx context.Context, latest *ledger.Entry, e *ledger.AddArtifact) (bool, error) {
	if !latest.Artifact.Includes(e) {
		return false, nil
	}
	by, err := w.RevokedBy(ctx, latest)
	return by == nil, err
}

// AppendAfter is Append for what was seen at the upstream when the ledger had
// size blocks. If the image got a block with another digest since, that one
// may be newer knowledge: the answer is ErrSuperseded, and the tag stays.
func (w *Writer) AppendAfter(ctx context.Context, e *ledger.AddArtifact, size int64) (int64, error) {
	return w.appendUnless(ctx, e, func(latest *ledger.Entry) (bool, error) {
		if latest.Artifact.Digest != e.Digest && latest.Height >= size {
			return false, fmt.Errorf("%w: %s is %s since block %d", ErrSuperseded, e.Artifact, latest.Artifact.Digest, latest.Height)
		}
		return w.answers(ctx, latest, e)
	})
}

// AppendMore is Append for an artifact of which more is known than its newest
// block says: another piece list. If by now that block has the list as well,
// or another digest, or is withdrawn, it is the answer.
func (w *Writer) AppendMore(ctx context.Context, e *ledger.AddArtifact) (int64, error) {
	return w.appendUnless(ctx, e, func(latest *ledger.Entry) (bool, error) {
		if latest.Artifact.Digest != e.Digest || latest.Artifact.Pieces == e.Pieces {
			return true, nil
		}
		by, err := w.RevokedBy(ctx, latest)
		return by != nil, err
	})
}

// appendUnless appends unless the image's newest block stands for it. What is
// withdrawn is refused with a *WithdrawnError, and what has fewer platforms than
// the newest block of the same digest with ErrSuperseded: a further block takes
// none away.
func (w *Writer) appendUnless(ctx context.Context, e *ledger.AddArtifact, stands func(latest *ledger.Entry) (bool, error)) (int64, error) {
	data, err := e.Marshal()
	if err != nil {
		return 0, err
	}
	image, err := ledger.ParseImage(e.Artifact)
	if err != nil {
		return 0, err
	}
	unlock := w.withdrawing.share(image.Name() + "@" + e.Digest.String())
	return w.appendAnd(ctx, image.String(), data, func() (*ledger.Entry, error) {
		latest, err := w.Latest(ctx, image)
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			if enough, err := stands(latest); err != nil || enough {
				return latest, err
			}
			if err := w.takesNothing(ctx, latest, e); err != nil {
				return nil, err
			}
		}
		return nil, w.Withdrawn(ctx, image.Name(), e.Digest)
	}, unlock)
}

// takesNothing refuses an entry that lacks platforms which the image's newest
// block has, if that one is of the same digest and stands.
func (w *Writer) takesNothing(ctx context.Context, latest *ledger.Entry, e *ledger.AddArtifact) error {
	if latest.Artifact.Digest != e.Digest || e.Includes(latest.Artifact) {
		return nil
	}
	by, err := w.RevokedBy(ctx, latest)
	if err == nil && by == nil {
		err = fmt.Errorf("%w: block %d of %s has more platforms", ErrSuperseded, latest.Height, e.Artifact)
	}
	return err
}

// append appends an entry about an image, unless find says that it is on the
// ledger.
func (w *Writer) append(ctx context.Context, image string, data []byte, find func() (*ledger.Entry, error)) (int64, error) {
	return w.appendAnd(ctx, image, data, find, func() {})
}

// appendAnd is append that calls ended when the block's fate is known.
func (w *Writer) appendAnd(ctx context.Context, image string, data []byte, find func() (*ledger.Entry, error), ended func()) (int64, error) {
	free, err := w.appending.Take(ctx, image)
	if err != nil {
		ended()
		return 0, fmt.Errorf("appending %s: %w", image, err)
	}
	release := func() { free(); ended() }
	there, err := find()
	if err != nil {
		release()
		return 0, err
	}
	if there != nil {
		release()
		return there.Height, nil
	}
	// The image stays locked until this block's fate is known, even if the
	// caller has left: otherwise a second append could double it.
	type result struct {
		height int64
		err    error
	}
	done := make(chan result, 1)
	w.adds.Go(func() {
		defer release()
		height, err := w.add(context.WithoutCancel(ctx), data)
		done <- result{height, err}
	})
	select {
	case r := <-done:
		return r.height, r.err
	case <-ctx.Done():
		return 0, fmt.Errorf("appending %s: %w", image, ctx.Err())
	}
}

func (w *Writer) add(ctx context.Context, data []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	i, err := w.appender.Add(ctx, tessera.NewEntry(data))()
	if err != nil {
		return 0, fmt.Errorf("appending to the ledger: %w", err)
	}
	height := int64(i.Index)
	for w.Size() <= height {
		if err := w.signings.await(ctx, height+1); err != nil {
			return 0, fmt.Errorf("waiting for a checkpoint of block %d: %w", height, err)
		}
		if _, err, _ := w.reading.Do("", w.readCheckpoint); err != nil {
			return 0, fmt.Errorf("appending to the ledger: %w", err)
		}
	}
	return height, nil
}

// readCheckpoint waits a little, because Tessera writes a checkpoint after it
// was signed, and makes the one that is there by then the head.
func (w *Writer) readCheckpoint() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkpointTimeout)
	defer cancel()
	<-time.After(checkpointWrite)
	signed, err := w.reader.ReadCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	c, err := w.VerifyCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	return nil, w.advance(ctx, w.dir, c, nil, w.keepRotations)
}

// CheckFloor fails with ErrBehind if the ledger does not contain a checkpoint
// that another node has verified and kept. Every caller that may ask for blocks
// may give a floor: its signature, perhaps by a key that was rotated since, is
// not checked again.
func (w *Writer) CheckFloor(ctx context.Context, signed []byte) error {
	if len(signed) > ledger.MaxCheckpoint {
		return fmt.Errorf("checkpoint of %d bytes: at most %d", len(signed), ledger.MaxCheckpoint)
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	floor, err := torchwood.ParseCheckpoint(text + "\n")
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if origin := w.Origin(); floor.Origin != origin {
		return fmt.Errorf("checkpoint of the ledger %.80q: this is %q", floor.Origin, origin)
	}
	if err := w.Contains(ctx, ledger.Checkpoint{Origin: floor.Origin, Tree: floor.Tree}); err != nil {
		return fmt.Errorf("%w: %w", ErrBehind, err)
	}
	return nil
}

// Close waits for appends under way, bounded, and ends the background work.
func (w *Writer) Close() error {
	timeout := checkpointTimeout
	if w.signings.failure() != nil {
		timeout = checkpointInterval // what is not signed by then never is
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var err error
	if w.shutdown != nil {
		err = w.shutdown(ctx)
	}
	w.adds.Wait()
	if w.stop != nil {
		w.stop()
	}
	w.done.Wait()
	w.closed.Store(true)
	return errors.Join(err, w.Ledger.Close())
}
