// Package store keeps blobs on disk in the OCI image layout, each one checked
// against its digest before it can be read: when it is written, on the first
// read after a start or after its file has changed, and by a slow scrub. It may
// import bucket and durable; all that handles content calls it.
package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/pyrsia/pyrsia-operator/node/internal/bucket"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// ErrNotFound is returned for a blob that is not in the store.
var ErrNotFound = errors.New("not in the store")

// ErrFull is returned when a blob does not fit and no unused one can be evicted
// for it.
var ErrFull = errors.New("no room in the store")

// Config says what a store keeps.
type Config struct {
	// Max bounds the blobs, bytes: the least recently used goes first. 0 means
	// unlimited: blobs are only dropped when the disk is full.
	Max int64
	// Pinned content never goes, also when the disk is full.
	Pinned bool
	// Bucket, if there is one, is where blobs are kept for good: the disk is a
	// cache in front of it, from which nothing goes that is not in the bucket.
	Bucket *bucket.Bucket
	// Corrupt is called for each blob that was found corrupt and put aside;
	// may be nil.
	Corrupt func(digest.Digest)
	Log     *slog.Logger
}

// Store is a set of blobs. It is safe for concurrent use.
type Store struct {
	root    string
	config  Config
	corrupt atomic.Int64

	mu       sync.Mutex // guards what follows, the fields of entries, and the names in blobs/
	blobs    map[digest.Digest]*entry
	used     *list.List // of *entry, the least recently used first
	size     int64      // of the blobs, bytes
	reserved int64      // for those that are being written
	trash    int        // number of files that were thrown away

	arriving       map[digest.Digest]int // how often a partial blob is open
	unfinished     []unfinished          // those that are not; the one that was left first is first
	unfinishedSize int64                 // of them, bytes

	uploads  chan struct{}      // has an element for each upload under way
	fetching singleflight.Group // from the bucket, by digest
}

type entry struct {
	digest  digest.Digest
	size    int64
	place   *list.Element
	readers int         // that have it open: its disk space would not be freed
	opened  bool        // it was of use to somebody, or may have been before the start
	checked fingerprint // of the file when it last had the right digest
	check   *check      // that is running
}

// Open opens the store at root, or begins it.
func Open(root string, c Config) (*Store, error) {
	s := &Store{
		root: root, config: c, blobs: map[digest.Digest]*entry{}, used: list.New(),
		arriving: map[digest.Digest]int{}, uploads: make(chan struct{}, maxUploads),
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return s, nil
}

func (s *Store) open() error {
	// What a dead process was writing or dropping is useless now.
	if err := os.RemoveAll(s.ingestDir()); err != nil {
		return err
	}
	for _, d := range []string{s.blobDir(), s.ingestDir(), s.quarantineDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if err := writeOnce(filepath.Join(s.root, name), []byte(content)); err != nil {
			return err
		}
	}
	s.findUnfinished()
	return s.scan()
}

// writeOnce does not write what is there already: a store on a full disk
// opens all the same.
func writeOnce(name string, content []byte) error {
	if old, err := os.ReadFile(name); err == nil && string(old) == string(content) {
		return nil
	}
	return durable.WriteFile(name, content)
}

func (s *Store) blobDir() string       { return filepath.Join(s.root, "blobs", "sha256") }
func (s *Store) ingestDir() string     { return filepath.Join(s.root, "ingest") }
func (s *Store) quarantineDir() string { return filepath.Join(s.root, "quarantine") }
func (s *Store) file(d digest.Digest) string {
	return filepath.Join(s.blobDir(), d.Encoded())
}

// add makes an entry known; the caller holds mu.
func (s *Store) add(e *entry) {
	if old, ok := s.blobs[e.digest]; ok {
		s.forget(old)
	}
	e.place = s.used.PushBack(e)
	s.blobs[e.digest] = e
	s.size += e.size
}

// forget drops an entry; the caller holds mu.
func (s *Store) forget(e *entry) {
	if s.blobs[e.digest] != e {
		return
	}
	s.used.Remove(e.place)
	delete(s.blobs, e.digest)
	s.size -= e.size
}

// shrink evicts until so many bytes more are within the bound, as far as
// there is something to evict. The caller holds mu, which shrink may give up
// for a while.
func (s *Store) shrink(room int64) {
	for s.config.Max > 0 && s.size+s.reserved+s.unfinishedSize+room > s.config.Max && s.evict() > 0 {
	}
}

// evict drops an unfinished blob, or else the blob that was not used for
// longest, and gives its size, or 0 if all are in use. The caller holds mu,
// which evict gives up for a while.
func (s *Store) evict() int64 {
	if size := s.giveUp(); size > 0 {
		return size
	}
	if s.config.Pinned {
		return 0
	}
	for place := s.used.Front(); place != nil; place = place.Next() {
		e := place.Value.(*entry)
		if e.readers > 0 || s.waiting(e.digest) {
			continue
		}
		s.forget(e)
		if err := s.throwAway(s.file(e.digest)); err != nil {
			s.config.Log.Error("evicting a blob", "digest", e.digest, "error", err)
		}
		return max(e.size, 1)
	}
	return 0
}

// throwAway removes a file. The caller holds mu, but not while the disk works:
// the name is free for a new file before.
func (s *Store) throwAway(name string) error {
	s.trash++
	// Crash before the removal: the next start empties the folder. Not synced:
	// after a power cut the blob may be back, and the next start counts it.
	trash := filepath.Join(s.ingestDir(), fmt.Sprintf("trash-%d", s.trash))
	if err := os.Rename(name, trash); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	return os.Remove(trash)
}

// Has tells whether the store holds a blob, on disk or in the bucket, without
// a look at its content.
func (s *Store) Has(d digest.Digest) bool {
	_, ok := s.Size(d)
	return ok
}

// Size is the size in bytes of a blob that the store holds.
func (s *Store) Size(d digest.Digest) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.blobs[d]; ok {
		return e.size, true
	}
	return s.config.Bucket.Size(d)
}

// Usage is the number of blobs on disk and their bytes.
func (s *Store) Usage() (blobs int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.blobs), s.size
}

// Corrupt counts the blobs that were found corrupt on disk.
func (s *Store) Corrupt() int64 { return s.corrupt.Load() }

// Usable tells whether the store can be read and written. A full disk is not a
// failure: blobs are passed on without being stored.
func (s *Store) Usable() error {
	if _, err := os.Stat(s.blobDir()); err != nil {
		return fmt.Errorf("the store is not usable: %w", err)
	}
	f, err := os.CreateTemp(s.ingestDir(), "probe-*")
	if isFull(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the store is not usable: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Blob is an open blob whose content is verified.
type Blob struct {
	*os.File
	close func() error
}

// Close closes the blob: from now on it may be evicted.
func (b *Blob) Close() error { return b.close() }

// Open opens a blob whose content has the right digest. A corrupt one is put
// aside and is not found. If the file must be hashed first, ctx bounds the
// wait, and the hashing goes on for the next caller; the same holds when the
// blob must come from the bucket.
func (s *Store) Open(ctx context.Context, d digest.Digest) (*Blob, error) {
	b, err := s.openLocal(ctx, d)
	if _, kept := s.config.Bucket.Size(d); !kept || !errors.Is(err, ErrNotFound) {
		return b, err
	}
	if err := s.fetch(ctx, d); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return s.openLocal(ctx, d)
}

func (s *Store) openLocal(ctx context.Context, d digest.Digest) (*Blob, error) {
	e, ok := s.use(d)
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	f, err := s.openChecked(ctx, e)
	if err != nil {
		s.release(e)
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return &Blob{File: f, close: sync.OnceValue(func() error {
		s.release(e)
		return f.Close()
	})}, nil
}

// use keeps a blob that is on disk from being evicted, until its release.
func (s *Store) use(d digest.Digest) (e *entry, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok = s.blobs[d]; ok {
		e.readers++
		e.opened = true
		s.used.MoveToBack(e.place)
	}
	return e, ok
}

func (s *Store) release(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.readers--
	s.shrink(0)
}

// openChecked opens an entry's file once it has the right digest.
func (s *Store) openChecked(ctx context.Context, e *entry) (*os.File, error) {
	for {
		f, err := os.Open(s.file(e.digest))
		if err != nil {
			s.mu.Lock()
			s.forget(e) // also when it cannot be read: peers may have it
			s.mu.Unlock()
			if errors.Is(err, fs.ErrNotExist) {
				return nil, ErrNotFound
			}
			return nil, err
		}
		checked, err := s.isChecked(e, f)
		if err == nil && checked {
			return f, nil
		}
		// The file is opened again after its check: it may be another one then.
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if err := s.verify(ctx, e); err != nil {
			return nil, err
		}
	}
}

// ReadAll reads a whole blob of at most limit bytes.
func (s *Store) ReadAll(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("blob %s: more than %d bytes", d, limit)
	}
	return data, nil
}
