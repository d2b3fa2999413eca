// Package replica keeps a ledger on this machine's disk: a Writer appends to the
// publisher's, a Follower keeps a verified copy of it. Both are a Ledger, which
// answers from that copy: who published which image, and the proof.
//
// It may import ledger, answers, durable and turn, and no other part of a node; nodes
// and pyrsia's commands call it. It needs the locks and memory maps of Linux.
package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"filippo.io/torchwood"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/answers"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

const (
	checkpointFile = "checkpoint"
	indexFolder    = "index"
	lockName       = "lock"
	maxEntries     = 1024 // in memory
)

// Ledger is this node's verified copy of the ledger. All methods are safe for
// concurrent use.
type Ledger struct {
	vkey    string // the pinned key
	dir     dir
	lock    *os.File // one process per copy
	heals   bool     // it has others to fetch from what is damaged
	cache   *tileCache
	entries *lru.Cache[int64, *ledger.Entry]
	index   *index.Index // may be ahead of head: queries go below head's size
	log     *slog.Logger

	limit   *answers.Limit // of what clients of the handler take
	refused refusals
	// evidence is what was refused, as far as it is kept.
	evidence evidences
	// before is the tree of a copy that another key of the same origin
	// verified, or that is damaged now, until the pinned key's ledger is proven
	// to contain it.
	before atomic.Pointer[ledger.Checkpoint]

	position atomic.Pointer[position]

	recording sync.Mutex // guards record once the ledger is open
	record    *keyRecord // nil: of version 0.1.0, or new

	mu      sync.Mutex // serialises advance, and guards what follows
	changed chan struct{}
	indexed tlog.Tree // whose blocks the index has; N is -1 after a failure
}

// open locks and loads the copy at path. What is under the stored checkpoint
// was verified before the checkpoint was stored.
//
// A copy whose files are damaged is an error, unless it heals: then the stored
// checkpoint is not the head, but what the next one must contain.
func open(ctx context.Context, path, vkey string, heals bool, log *slog.Logger) (*Ledger, error) {
	pinned, err := ledger.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	l := &Ledger{vkey: strings.TrimSpace(vkey), dir: dir{path}, heals: heals, log: log, limit: answers.New(), changed: make(chan struct{})}
	l.position.Store(&position{trust: &trust{newest: pinned}})
	if l.lock, err = lockFile(filepath.Join(path, lockName)); err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		advice := "'pyrsia fsck' tells which file is damaged"
		if errors.Is(err, errOtherKey) {
			advice = "give the key of the ledger that is there, or another folder"
		}
		return nil, errors.Join(fmt.Errorf("opening the ledger in %s: %w; %s", path, err, advice), l.Close())
	}
	return l, nil
}

// lockFile holds a lock on a file until it is closed, or the process dies.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the ledger: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses the ledger %s: %w", filepath.Dir(name), err), f.Close())
	}
	return f, nil
}

func (l *Ledger) load(ctx context.Context) (err error) {
	if l.entries, err = lru.New[int64, *ledger.Entry](maxEntries); err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	if l.index, err = index.Open(filepath.Join(l.dir.path, indexFolder), index.SegmentBlocks); err != nil {
		return err
	}
	if l.cache, err = newTileCache(local{l.dir, l.index}); err != nil {
		return err
	}
	rotations, err := l.dir.readRotations()
	if err != nil {
		l.log.Warn("the proofs of key rotations are lost: the ledger's peers have them", "error", err)
	}
	if l.record, err = l.dir.readKeys(); err != nil {
		l.log.Warn("the record of the ledger's keys is damaged: they are taken from the blocks", "error", err)
	}
	rotations = l.record.withHandOvers(rotations)
	pinned := l.now().trust.newest
	trusted := &trust{newest: pinned, rotations: rotations}
	l.position.Store(&position{trust: trusted})
	if err := l.loadHead(ctx, pinned, rotations); err != nil || l.now().head != nil {
		return err
	}
	if trusted, err = l.recorded(trusted); err != nil {
		return err
	}
	l.position.Store(&position{trust: trusted})
	return nil
}

// loadHead makes the stored checkpoint the head, if there is one and its files are
// as they should be.
func (l *Ledger) loadHead(ctx context.Context, pinned *ledger.Verifier, rotations []ledger.Rotation) error {
	signed, err := l.dir.ReadEndpoint(ctx, checkpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return l.index.Keep(0, 0, nil) // what a first sync left that did not end
	}
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	c, err := ledger.VerifyCheckpoint(l.record.mayHaveSigned(pinned, rotations), signed)
	if err != nil {
		return l.distrust(signed, err)
	}
	return l.loadCheckpoint(ctx, c)
}

var errOtherKey = errors.New("it is not the ledger of key")

// distrust begins anew on a copy of the same origin that the pinned key did not
// sign. Its tiles are used as far as they are proven again.
func (l *Ledger) distrust(signed []byte, cause error) error {
	untrusted := fmt.Errorf("%w %s: %w", errOtherKey, l.vkey, cause)
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](cause)
	if !ok {
		return untrusted
	}
	c, err := torchwood.ParseCheckpoint(unverified.Note.Text)
	if err != nil || c.Origin != l.Origin() {
		return untrusted
	}
	if err := l.index.Keep(0, 0, nil); err != nil {
		return err
	}
	l.log.Warn("another key was pinned: its ledger must contain what is on this disk", "key", l.vkey, "blocks", c.Tree.N)
	l.before.Store(&ledger.Checkpoint{Origin: c.Origin, Tree: c.Tree, Signed: signed})
	return nil
}

// loadCheckpoint makes a stored checkpoint the head.
func (l *Ledger) loadCheckpoint(ctx context.Context, c ledger.Checkpoint) error {
	err := l.advance(ctx, l.dir, c, nil, l.keepRotations)
	if errors.Is(err, errUnsigned) {
		switch {
		case l.record == nil || slices.Contains(c.Signers, l.record.newest()):
			err = l.advanceAsBefore(ctx, c)
		case l.heals: // it is not what this copy has verified
			l.log.Error("the checkpoint on this disk is signed by a key that has handed the ledger over: it is not believed", "error", err)
			l.before.Store(&c)
			return l.index.Keep(0, 0, nil)
		}
	}
	if l.heals && (isDamage(err) || errors.Is(err, errHandOver)) {
		l.log.Error("the ledger on this disk is damaged, and is fetched where it is", "error", err)
		l.before.Store(&c)
		return nil
	}
	return err
}

// isDamage tells errors of files that another copy can replace.
func isDamage(err error) bool {
	_, corrupt := errors.AsType[*CorruptError](err)
	return corrupt || errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist)
}

// Key is the verifier key that was pinned.
func (l *Ledger) Key() string { return l.vkey }

// Origin is the ledger's name (c2sp.org/tlog-checkpoint).
func (l *Ledger) Origin() string { return l.now().trust.newest.Origin() }

// NewestKey is the verifier key that signs the ledger now: the pinned one, or the
// last to which the verified ledger was handed over.
func (l *Ledger) NewestKey() string { return l.now().trust.key() }

// VerifyCheckpoint reads a signed checkpoint of this ledger: by its newest key.
func (l *Ledger) VerifyCheckpoint(signed []byte) (ledger.Checkpoint, error) {
	return ledger.VerifyCheckpoint(l.now().trust.newest, signed)
}

// Head is the newest verified checkpoint; ok is false if there is none yet.
func (l *Ledger) Head() (c ledger.Checkpoint, ok bool) { return l.now().at() }

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
func (l *Ledger) Close() error {
	var err error
	if l.index != nil {
		err = l.index.Close()
	}
	return errors.Join(err, l.lock.Close())
}

// advance verifies each block between the index and the checkpoint c, reading
// tiles from tr, indexes them, finds out to which keys they hand the ledger over,
// calls commit, and makes c the head, unless the head is newer. told are proofs
// of key rotations that c's source has.
func (l *Ledger) advance(ctx context.Context, tr torchwood.TileReader, c ledger.Checkpoint, told []ledger.Rotation, commit func(*trust) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if head, ok := l.Head(); ok && !follows(c, head, time.Now()) {
		return nil // a concurrent call was faster
	}
	if err := l.extends(ctx, tr, c); err != nil {
		return err
	}
	if err := l.indexTo(ctx, tr, c.Tree); err != nil {
		return err
	}
	c, next, err := l.follow(ctx, tr, c, told)
	if err != nil {
		return err
	}
	if head := l.mustContain(); head != nil {
		if err := mustSayWhen(c, *head); err != nil { // by the key that counts now
			return err
		}
	}
	if err := commit(next); err != nil {
		return err
	}
	l.moveHead(c, next)
	return nil
}

// mustContain is the newest checkpoint that was verified on this disk, now or before
// it was damaged; nil if there is none.
func (l *Ledger) mustContain() *ledger.Checkpoint {
	if head := l.now().head; head != nil {
		return head
	}
	return l.before.Load()
}

// moveHead makes c the head; the caller holds mu.
func (l *Ledger) moveHead(c ledger.Checkpoint, next *trust) {
	since := time.Now()
	if l.now().head == nil {
		// What is on the disk is as old as its file.
		if info, err := os.Stat(filepath.Join(l.dir.path, checkpointFile)); err == nil {
			since = info.ModTime()
		}
	}
	c = next.own(c)
	l.position.Store(&position{head: &c, trust: next, since: since})
	close(l.changed)
	l.changed = make(chan struct{})
}

// extends proves that a tree begins with the head's, which may have moved since
// the caller compared them. The caller holds mu.
func (l *Ledger) extends(ctx context.Context, tr torchwood.TileReader, c ledger.Checkpoint) error {
	head, _ := l.Head()
	if head.Tree.N == 0 {
		return nil
	}
	root := c.Tree.Hash
	hashes := proven{ctx, l.cache.over(tr), c.Tree}
	if c.Tree.N != head.Tree.N {
		var err error
		if root, err = hashes.root(head.Tree.N); err != nil {
			return fmt.Errorf("checking consistency: %w", err)
		}
	}
	if root != head.Tree.Hash {
		return newForkedError(head, c, head.Tree.N, head.Tree.Hash, root, c.Tree, hashes)
	}
	return nil
}

// indexTo verifies and indexes the blocks up to a tree; the caller holds mu.
func (l *Ledger) indexTo(ctx context.Context, tr torchwood.TileReader, tree tlog.Tree) error {
	if err := l.fitIndex(ctx, tr, tree); err != nil {
		return err
	}
	if l.index.Blocks() >= tree.N {
		return nil
	}
	l.indexed = tlog.Tree{N: -1}
	if err := l.indexBlocks(ctx, tr, tree); err != nil {
		l.cache.tiles.Purge() // what was proven may not be on the disk
		return err
	}
	l.indexed = tree
	return nil
}

// fitIndex drops from the index what is not of a tree: at the start, after a
// sync that failed, or when its tree was signed and then another one. The
// caller holds mu, and has proven that the tree extends the head.
func (l *Ledger) fitIndex(ctx context.Context, tr torchwood.TileReader, tree tlog.Tree) error {
	head, _ := l.Head()
	if l.index.Blocks() == l.indexed.N && (l.indexed == head.Tree || l.agree(ctx, tr, tree, l.indexed)) {
		return nil
	}
	l.cache.tiles.Purge()
	return l.index.Keep(tree.N, head.Tree.N, proven{ctx, l.cache.over(tr), tree}.root)
}

// forget drops from the index what is above the head, after a sync that failed:
// the next one reads it again, so that it is made durable before its checkpoint.
func (l *Ledger) forget(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	head, _ := l.Head()
	if l.index.Blocks() <= head.Tree.N {
		return nil
	}
	l.indexed = tlog.Tree{N: -1}
	l.cache.tiles.Purge() // the next tree may have others at its edge
	return l.index.Keep(head.Tree.N, head.Tree.N, proven{context.WithoutCancel(ctx), l.cache.over(l.dir), head.Tree}.root)
}

// agree tells whether one of two trees begins with the other.
func (l *Ledger) agree(ctx context.Context, tr torchwood.TileReader, a, b tlog.Tree) bool {
	if a.N > b.N {
		a, b = b, a
	}
	h, err := proven{ctx, l.cache.over(tr), b}.root(a.N)
	return err == nil && h == a.Hash
}
