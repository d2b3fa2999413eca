package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ErrNoCopy is returned when no copy of the ledger could be reached.
var ErrNoCopy = errors.New("no copy of the ledger was reached")

// Exists tells whether the ledger at path was begun.
func Exists(path string) bool {
	_, err := dir{path: path}.ReadEndpoint(context.Background(), checkpointFile)
	return err == nil
}

// Restore makes the ledger at path, empty or behind, what its publisher goes on
// from: the largest verified copy that the sources have. It returns the number
// of blocks; the next one is appended at that height.
func Restore(ctx context.Context, path, signingKey string, sources []torchwood.TileReader, log *slog.Logger) (int64, error) {
	keys, err := ledger.ReadSigningKeys(signingKey)
	if err != nil {
		return 0, err
	}
	pinned, err := restoredKey(ctx, path, keys, sources, log)
	if err != nil {
		return 0, err
	}
	f, err := OpenFollower(ctx, path, pinned, log)
	if err != nil {
		return 0, err
	}
	f.restoring = true
	err = f.syncLargest(ctx, sources)
	blocks := f.Size()
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	// The publisher can go on from it, or it says now why not.
	w, err := OpenWriter(ctx, path, signingKey, log)
	if err != nil {
		return 0, err
	}
	return max(blocks, w.Size()), w.Close()
}

// restoredKey is the key by which copies are judged: the last one. The previous one
// may be in the wrong hands, which is why it is rotated. It counts only where the
// new one cannot have signed yet: no copy has its signature, and the ledger on this
// disk, which the publisher itself has written, says what it is to extend.
func restoredKey(ctx context.Context, path string, keys []ledger.SigningKey, sources []torchwood.TileReader, log *slog.Logger) (string, error) {
	last := keys[len(keys)-1].Key
	if len(keys) == 1 {
		return last, nil
	}
	v, err := ledger.NewVerifier(last)
	if err != nil {
		return "", err
	}
	for _, s := range sources {
		signed, err := s.ReadEndpoint(ctx, checkpointFile)
		if err == nil {
			_, err = ledger.VerifyCheckpoint(v, signed)
		}
		if err == nil {
			return last, nil
		}
	}
	if !Exists(path) {
		return "", fmt.Errorf("%w that the key %s has signed: give more sources; if that key has never signed, restore with the key before alone (without --next-signing-key; with the operator, set spec.publisher.keyGeneration back), and rotate it then", ErrNoCopy, last)
	}
	log.Warn("no copy of the ledger is signed by the new key: they are judged by the key before, and must extend what is on this disk", "new", last, "before", keys[0].Key)
	return keys[0].Key, nil
}

func (f *Follower) syncLargest(ctx context.Context, sources []torchwood.TileReader) error {
	var failures error
	reached := 0
	for _, s := range sources {
		_, err := f.Sync(ctx, s)
		switch {
		case errors.Is(err, ErrForked):
			return fmt.Errorf("what is in %s and what %v has contradict each other: find out which one the network has, and move the other away: %w", f.dir.path, s, err)
		case err != nil:
			failures = errors.Join(failures, fmt.Errorf("%v: %w", s, err))
		default:
			reached++
		}
	}
	if reached == 0 {
		return fmt.Errorf("%w: %w", ErrNoCopy, failures)
	}
	if failures != nil {
		f.log.Warn("some copies of the ledger were not reached: theirs may be larger", "error", failures)
	}
	return nil
}
