package tlogmirror

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
)

// MaxOrigins bounds the logs of one cosigner: each has files open and tiles in memory.
const MaxOrigins = 64

// maxOrigin is how long an origin may be, in bytes (c2sp.org/tlog-cosignature).
const maxOrigin = 255

// Options are what a cosigner is opened with.
type Options struct {
	// Name is that of its keys, a schema-less URL (c2sp.org/tlog-cosignature). A mirror
	// and a witness have different ones.
	Name string
	// Role is quorum.Mirror or quorum.Witness. It never changes.
	Role quorum.Role
	Now  func() time.Time
	Log  *slog.Logger
}

// Log is a log that is cosigned.
type Log struct {
	Origin string
	// Keys are the log's keys, and decide whether it has signed. They may change while
	// the log hands over to another key.
	Keys torchwood.Policy
	// Floor is the highest serial number that is known of the record from elsewhere
	// than its disk; see quorum.Open.
	Floor uint64
}

// Cosigner are the keys of a mirror or a witness, and what they may sign. All methods
// are safe for concurrent use.
type Cosigner struct {
	path    string
	options Options
	lock    *os.File
	tickets [32]byte // the secret of this process's tickets
	uploads *slots

	mu      sync.RWMutex // guards what follows
	keys    *keyring
	members map[string]*Member // by the hash of their origin
}

// Open opens a cosigner's folder, or begins one with new keys.
func Open(path string, o Options) (*Cosigner, error) {
	if o.Role != quorum.Mirror && o.Role != quorum.Witness {
		return nil, fmt.Errorf("cosigner of role %q: want %q or %q", o.Role, quorum.Mirror, quorum.Witness)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("opening the cosigner's folder: %w", err)
	}
	c := &Cosigner{path: path, options: o, uploads: newSlots(maxUploads, maxUploadsOf), members: map[string]*Member{}}
	rand.Read(c.tickets[:]) // never fails
	var err error
	if c.lock, err = lockFolder(path); err != nil {
		return nil, err
	}
	if err = sweep(path); err == nil {
		c.keys, err = openKeys(path, o.Name)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// sweep removes the temporary files of a process that died: one may hold the keys.
func sweep(path string) error {
	for _, depth := range []string{".", "*"} {
		left, err := filepath.Glob(filepath.Join(path, depth, ".new-*"))
		for _, file := range left {
			err = errors.Join(err, os.Remove(file))
		}
		if err != nil {
			return fmt.Errorf("clearing the cosigner's folder: %w", err)
		}
	}
	return nil
}

// lockFolder holds a folder until the file is closed, or the process dies: two
// processes with one key would sign two histories.
func lockFolder(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cosigner's folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses the cosigner in %s: end it first: %w", path, err), f.Close())
	}
	return f, nil
}

// Close ends all changes, and gives the folder back.
func (c *Cosigner) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		m.close()
	}
	return c.lock.Close()
}

// Keys are the verifier keys, that of ML-DSA-44 first.
func (c *Cosigner) Keys() []string { return c.keys.vkeys() }

// Add begins to cosign a log. The error is a *quorum.Refusal of reason StateLost if
// the keys have signed for the log and their record is not there: they sign nothing
// for it any more.
func (c *Cosigner) Add(ctx context.Context, l Log) (*Member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.Origin == "" || len(l.Origin) > maxOrigin {
		return nil, fmt.Errorf("a log with an origin of %d bytes: a cosignature names 1 to %d", len(l.Origin), maxOrigin)
	}
	id := OriginHash(l.Origin)
	if _, twice := c.members[id]; twice {
		return nil, fmt.Errorf("the log %.80q is cosigned already", l.Origin)
	}
	if len(c.members) >= MaxOrigins {
		return nil, fmt.Errorf("the log %.80q is one too many: a cosigner has at most %d", l.Origin, MaxOrigins)
	}
	m, err := c.open(ctx, filepath.Join(c.path, id), l)
	if err != nil {
		return nil, fmt.Errorf("cosigning the log %.80q: %w", l.Origin, err)
	}
	c.members[id] = m
	return m, nil
}

// member is that of an origin's hash; nil if there is none.
func (c *Cosigner) member(id string) *Member {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.members[id]
}

// OriginHash names a log in paths (c2sp.org/tlog-witness, Monitor Retrieval Mechanism).
func OriginHash(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}
