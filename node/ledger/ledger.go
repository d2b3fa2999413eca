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
	"sync/atomic"

	"filippo.io/torchwood"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/note"
)

// ErrNotFound is returned when the ledger has no block that answers.
var ErrNotFound = errors.New("not on the ledger")

const (
	checkpointFile = "checkpoint"
	indexFolder    = "index"
	maxEntries     = 1024 // in memory
)

// Ledger is this node's verified copy of the ledger. All methods are safe for
// concurrent use.
type Ledger struct {
	key     note.Verifier
	vkey    string
	dir     dir
	cache   *tileCache
	entries *lru.Cache[int64, *Entry]
	index   *index // may be ahead of head: queries go below head's size
	log     *slog.Logger

	head atomic.Pointer[Checkpoint] // nil until a checkpoint is verified and indexed

	mu      sync.Mutex // serialises advance, and guards changed
	changed chan struct{}
}

// open loads the copy at path. What is under the stored checkpoint was
// verified before the checkpoint was stored.
func open(ctx context.Context, path, vkey string, log *slog.Logger) (*Ledger, error) {
	key, err := NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	l := &Ledger{key: key, vkey: vkey, dir: dir{path}, log: log, changed: make(chan struct{})}
	if l.cache, err = newTileCache(l.dir); err != nil {
		return nil, err
	}
	if l.entries, err = lru.New[int64, *Entry](maxEntries); err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	if l.index, err = openIndex(filepath.Join(path, indexFolder), segmentBlocks); err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		return nil, errors.Join(err, l.index.close())
	}
	return l, nil
}

func (l *Ledger) load(ctx context.Context) error {
	signed, err := l.dir.ReadEndpoint(ctx, checkpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	c, err := VerifyCheckpoint(l.key, signed)
	if err != nil {
		return fmt.Errorf("the ledger in %s is not the one of key %s: %w", l.dir.path, l.key.Name(), err)
	}
	if l.index.blocks() <= c.Tree.N {
		ours, err := l.index.belongs(proven{ctx, l.cache, c.Tree}.root)
		if err != nil {
			return fmt.Errorf("opening the ledger: %w", err)
		}
		if !ours {
			l.log.Warn("rebuilding the index: it is of another ledger")
			if err := l.index.reset(); err != nil {
				return fmt.Errorf("rebuilding the index: %w", err)
			}
		}
	}
	return l.advance(ctx, l.dir, c, committed)
}

// committed is advance's commit for a checkpoint that is on disk already.
func committed() error { return nil }

// Key is the ledger's verifier key.
func (l *Ledger) Key() string { return l.vkey }

// Head is the newest verified checkpoint; ok is false if there is none yet.
func (l *Ledger) Head() (c Checkpoint, ok bool) {
	if p := l.head.Load(); p != nil {
		return *p, true
	}
	return Checkpoint{}, false
}

// Size is the number of verified blocks.
func (l *Ledger) Size() int64 {
	c, _ := l.Head()
	return c.Tree.N
}

// Changed returns a channel that is closed when the head moves.
func (l *Ledger) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Close gives the files back.
func (l *Ledger) Close() error { return l.index.close() }

// advance verifies each block between the index and the checkpoint c, reading
// tiles from tr, indexes them, calls commit, and makes c the head.
func (l *Ledger) advance(ctx context.Context, tr torchwood.TileReader, c Checkpoint, commit func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if head, ok := l.Head(); ok && c.Tree.N <= head.Tree.N {
		return nil // a concurrent call was faster
	}
	if l.index.blocks() > c.Tree.N {
		// The index of another disk, or of a later time: it is derived.
		l.log.Warn("rebuilding the index", "indexed", l.index.blocks(), "ledger", c.Tree.N)
		if err := l.index.reset(); err != nil {
			return fmt.Errorf("rebuilding the index: %w", err)
		}
	}
	if err := l.indexBlocks(ctx, tr, c.Tree); err != nil {
		l.cache.tiles.Purge() // what was proven may not be on the disk
		return err
	}
	if err := commit(); err != nil {
		return err
	}
	l.head.Store(&c)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}
