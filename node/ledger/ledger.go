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
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrNotFound is returned when the ledger has no block that answers.
var ErrNotFound = errors.New("not on the ledger")

const (
	checkpointFile = "checkpoint"
	indexFile      = "index.db"
	indexBatch     = 4096 // blocks in one index transaction
)

// Ledger is this node's verified copy of the ledger. All methods are safe for
// concurrent use.
type Ledger struct {
	key   note.Verifier
	vkey  string
	dir   dir
	index *index // may be ahead of head: queries go below head's size
	log   *slog.Logger

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
	x, err := openIndex(filepath.Join(path, indexFile))
	if err != nil {
		return nil, err
	}
	l := &Ledger{key: key, vkey: vkey, dir: dir{path}, index: x, log: log, changed: make(chan struct{})}
	if err := l.load(ctx); err != nil {
		return nil, errors.Join(err, x.db.Close())
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
func (l *Ledger) Close() error { return l.index.db.Close() }

// advance verifies each block between the index and the checkpoint c, reading
// tiles from tr, indexes them, calls commit, and makes c the head.
func (l *Ledger) advance(ctx context.Context, tr torchwood.TileReader, c Checkpoint, commit func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if head, ok := l.Head(); ok && c.Tree.N <= head.Tree.N {
		return nil // a concurrent call was faster
	}
	from := l.index.size()
	if from > c.Tree.N {
		// The index of another disk, or of a later time: it is derived.
		l.log.Warn("rebuilding the index", "indexed", from, "ledger", c.Tree.N)
		if err := l.index.reset(); err != nil {
			return fmt.Errorf("rebuilding the index: %w", err)
		}
		from = 0
	}
	if err := l.indexBlocks(ctx, tr, c.Tree, from); err != nil {
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

func (l *Ledger) indexBlocks(ctx context.Context, tr torchwood.TileReader, tree tlog.Tree, from int64) error {
	if from == tree.N {
		return nil
	}
	client, err := torchwood.NewClient(tr)
	if err != nil {
		return fmt.Errorf("reading the ledger: %w", err)
	}
	batch := make([]indexed, 0, min(indexBatch, tree.N-from))
	for height, data := range client.AllEntries(ctx, tree, from) {
		artifact, err := ParseEntry(data)
		if err != nil {
			// Proven to be on the ledger, and kept; but it says nothing to us.
			l.log.Warn("block is not indexed", "block", height, "error", err)
		}
		batch = append(batch, indexed{height: height, artifact: artifact})
		if len(batch) == indexBatch {
			if err := l.index.add(batch, height+1); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := client.Err(); err != nil {
		return fmt.Errorf("reading the ledger's blocks from %d on: %w", from, err)
	}
	if len(batch) == 0 {
		return nil
	}
	return l.index.add(batch, tree.N)
}

// Entry is a verified block as it is on this node's copy.
type Entry struct {
	Height   int64
	Data     []byte       // the entry's bytes
	Artifact *AddArtifact // nil when the block's type is unknown
}

// Block reads the block at a height, with a tlog-proof under the head.
func (l *Ledger) Block(ctx context.Context, height int64) (*Entry, []byte, error) {
	head, ok := l.Head()
	if !ok || height < 0 || height >= head.Tree.N {
		return nil, nil, fmt.Errorf("block %d: %w", height, ErrNotFound)
	}
	client, err := torchwood.NewClient(l.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("block %d: %w", height, err)
	}
	data, proof, err := client.Entry(ctx, head.Tree, height)
	if err != nil {
		return nil, nil, fmt.Errorf("block %d: %w", height, err)
	}
	artifact, err := ParseEntry(data)
	if err != nil && !errors.Is(err, ErrUnknownEntry) {
		l.log.Warn("block cannot be read", "block", height, "error", err)
	}
	return &Entry{Height: height, Data: data, Artifact: artifact}, torchwood.FormatProof(height, proof, head.Signed), nil
}

// Latest finds the newest block of an image.
func (l *Ledger) Latest(image Image) (height int64, d digest.Digest, ok bool) {
	return l.index.latest(image.String(), l.Size())
}

// Heights lists an image's blocks, newest first.
func (l *Ledger) Heights(image Image, limit int) []int64 {
	return l.index.heights(image.String(), l.Size(), limit)
}

// ByDigest lists the blocks that name a digest (of an artifact, a platform's
// manifest, an image ID or a piece list), newest first.
func (l *Ledger) ByDigest(d digest.Digest, limit int) []int64 {
	return l.index.byDigest(d, l.Size(), limit)
}

// Tags lists up to limit tags of a repository that sort after the tag after.
func (l *Ledger) Tags(name, after string, limit int) []string {
	return l.index.tags(name, after, limit)
}

// Repositories lists the names of all repositories, sorted.
func (l *Ledger) Repositories() []string { return l.index.repositories() }

// Consistency proves that the head extends the ledger's first since blocks.
func (l *Ledger) Consistency(ctx context.Context, since int64) (tlog.TreeProof, error) {
	head, ok := l.Head()
	if !ok || since <= 0 || since >= head.Tree.N {
		return nil, nil
	}
	proof, err := tlog.ProveTree(head.Tree.N, since, torchwood.TileHashReaderWithContext(ctx, head.Tree, l.dir))
	if err != nil {
		return nil, fmt.Errorf("proving consistency with %d blocks: %w", since, err)
	}
	return proof, nil
}

// Contains checks that an earlier checkpoint is part of this copy's history.
func (l *Ledger) Contains(ctx context.Context, c Checkpoint) error {
	head, _ := l.Head()
	proof, err := l.Consistency(ctx, c.Tree.N)
	if err != nil {
		return err
	}
	return VerifyConsistency(c, head, EncodeHashes(proof))
}
