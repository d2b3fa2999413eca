package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/sync/singleflight"
)

const (
	batchSize          = 256
	batchAge           = 50 * time.Millisecond
	checkpointInterval = 200 * time.Millisecond
	settleTimeout      = 30 * time.Second
)

// ErrBehind is returned when the ledger on this disk does not contain a
// checkpoint that was seen before: the disk was rolled back or replaced, and
// to append would sign a second history.
var ErrBehind = errors.New("the ledger on this disk is behind a checkpoint that was published before")

// Writer appends to the ledger. There is one per ledger, held by a file lock.
type Writer struct {
	*Ledger
	appender *tessera.Appender
	reader   tessera.LogReader
	shutdown func(context.Context) error
	reading  singleflight.Group // one wait for the next checkpoint, shared by all appends
	stop     context.CancelFunc
	lock     *os.File

	adds sync.WaitGroup // appends whose blocks have no checkpoint yet; each is bounded

	mu      sync.Mutex // guards pending
	pending map[string]chan struct{}
}

// OpenWriter opens or begins the ledger at path, signed by skey.
func OpenWriter(ctx context.Context, path, skey string, log *slog.Logger) (*Writer, error) {
	signer, vkey, err := NewSigner(skey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	lock, err := lockFile(filepath.Join(path, "writer.lock"))
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, path, vkey, log)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	w := &Writer{Ledger: l, lock: lock, pending: map[string]chan struct{}{}}
	driver, err := posix.New(ctx, posix.Config{Path: path})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the ledger: %w", err), l.Close(), lock.Close())
	}
	// Background work ends with Close, not with the caller's context.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.appender, w.shutdown, w.reader, err = tessera.NewAppender(run, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(checkpointInterval).
		WithBatching(batchSize, batchAge))
	if err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("opening the ledger: %w", err), l.Close(), lock.Close())
	}
	if err := w.settle(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// lockFile holds a lock on a file until it is closed, or the process dies.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the ledger: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another publisher writes the ledger %s: %w", filepath.Dir(name), err), f.Close())
	}
	return f, nil
}

// settle waits until everything that a former process integrated is under a
// signed checkpoint and indexed, so that an append which was repeated because
// its acknowledgement was lost finds the block that it made.
func (w *Writer) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
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
			c, err := VerifyCheckpoint(w.key, signed)
			if err != nil {
				return fmt.Errorf("opening the ledger: %w", err)
			}
			if uint64(c.Tree.N) == size {
				return w.advance(ctx, w.dir, c, committed)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("opening the ledger: waiting for a checkpoint of %d blocks: %w", size, ctx.Err())
		case <-time.After(checkpointInterval / 8):
		}
	}
}

// Append records an artifact and returns its height when the block is on disk
// and under a signed checkpoint. If the image's newest block has this digest
// already, that block is the answer. On ctx's end the block may still appear;
// to append again is safe.
func (w *Writer) Append(ctx context.Context, e *AddArtifact) (int64, error) {
	data, err := e.Marshal()
	if err != nil {
		return 0, err
	}
	image, err := ParseImage(e.Artifact)
	if err != nil {
		return 0, err
	}
	return w.append(ctx, e.Artifact, data, func() (*Entry, error) {
		latest, err := w.Latest(ctx, image)
		if errors.Is(err, ErrNotFound) || err == nil && latest.Artifact.Digest != e.Digest {
			return nil, nil
		}
		return latest, err
	})
}

// append appends an entry about an image, unless known finds that it is on the
// ledger.
func (w *Writer) append(ctx context.Context, image string, data []byte, known func() (*Entry, error)) (int64, error) {
	release, err := w.acquire(ctx, image)
	if err != nil {
		return 0, err
	}
	there, err := known()
	if err != nil {
		release()
		return 0, err
	}
	if there != nil {
		release()
		return there.Height, nil
	}
	// The image stays acquired until this block's fate is known, also when
	// the caller is gone by then: else a second append could double it.
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
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	i, err := w.appender.Add(ctx, tessera.NewEntry(data))()
	if err != nil {
		return 0, fmt.Errorf("appending to the ledger: %w", err)
	}
	height := int64(i.Index)
	for w.Size() <= height {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("waiting for a checkpoint of block %d: %w", height, err)
		}
		if _, err, _ := w.reading.Do("", w.readCheckpoint); err != nil {
			return 0, fmt.Errorf("appending to the ledger: %w", err)
		}
	}
	return height, nil
}

// readCheckpoint waits a little, for Tessera publishes by the clock, and makes
// the checkpoint that is there by then the head.
func (w *Writer) readCheckpoint() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	<-time.After(checkpointInterval / 8)
	signed, err := w.reader.ReadCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	c, err := VerifyCheckpoint(w.key, signed)
	if err != nil {
		return nil, err
	}
	return nil, w.advance(ctx, w.dir, c, committed)
}

// acquire serialises the appends of one image; those of different images run
// together and share batches.
func (w *Writer) acquire(ctx context.Context, image string) (release func(), err error) {
	for {
		w.mu.Lock()
		busy, ok := w.pending[image]
		if !ok {
			free := make(chan struct{})
			w.pending[image] = free
			w.mu.Unlock()
			return func() {
				w.mu.Lock()
				delete(w.pending, image)
				w.mu.Unlock()
				close(free)
			}, nil
		}
		w.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("appending %s: %w", image, ctx.Err())
		}
	}
}

// CheckFloor refuses with ErrBehind when the ledger does not contain a signed
// checkpoint that somebody else has kept.
func (w *Writer) CheckFloor(ctx context.Context, signed []byte) error {
	floor, err := VerifyCheckpoint(w.key, signed)
	if err != nil {
		return err
	}
	if err := w.Contains(ctx, floor); err != nil {
		return fmt.Errorf("%w: %w", ErrBehind, err)
	}
	return nil
}

// Close waits for appends under way, bounded, and ends the background work.
func (w *Writer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	err := w.shutdown(ctx)
	w.adds.Wait()
	w.stop()
	return errors.Join(err, w.Ledger.Close(), w.lock.Close())
}
