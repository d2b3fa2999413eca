package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"filippo.io/torchwood"
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
	keys, err := readSigningKeys(signingKey)
	if err != nil {
		return 0, err
	}
	f, err := OpenFollower(ctx, path, keys[0].vkey, log)
	if err != nil {
		return 0, err
	}
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
