// Package store keeps blobs on disk in the OCI image layout, each one checked
// against its digest before it can be read: when it is written, and again on
// the first read after a start or after its file has changed.
package store

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// ErrNotFound is returned for a blob that is not in the store.
var ErrNotFound = errors.New("not in the store")

// Store is a set of blobs. It is safe for concurrent use.
type Store struct {
	root    string
	max     int64 // bytes; 0 means without bound
	log     *slog.Logger
	corrupt atomic.Int64
	evicted func(digest.Digest)

	mu    sync.Mutex // guards what follows, and the fields of entries
	blobs map[digest.Digest]*entry
	used  *list.List // of *entry, the least recently used first
	size  int64
}

type entry struct {
	digest  digest.Digest
	size    int64
	place   *list.Element
	checked fingerprint // of the file when it last had the right digest

	verify sync.Mutex // held while the file is hashed
}

// fingerprint changes when a file's content may have.
type fingerprint struct {
	inode        uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func fingerprintOf(info fs.FileInfo) fingerprint {
	st := info.Sys().(*syscall.Stat_t)
	return fingerprint{inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// Open opens the store at root, or begins it. It keeps at most max bytes and
// drops what was not used for longest; 0 means that it drops nothing. evicted
// is called for each blob that is no longer there.
func Open(root string, max int64, log *slog.Logger, evicted func(digest.Digest)) (*Store, error) {
	s := &Store{root: root, max: max, log: log, evicted: evicted, blobs: map[digest.Digest]*entry{}, used: list.New()}
	for _, d := range []string{s.blobDir(), s.ingestDir(), s.quarantineDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("opening the store: %w", err)
		}
	}
	// What a dead process was writing is of no use to this one.
	if err := os.RemoveAll(s.ingestDir()); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	if err := os.Mkdir(s.ingestDir(), 0o755); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	for name, content := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if err := durable.WriteFile(filepath.Join(root, name), []byte(content)); err != nil {
			return nil, fmt.Errorf("opening the store: %w", err)
		}
	}
	return s, s.scan()
}

func (s *Store) scan() error {
	files, err := os.ReadDir(s.blobDir())
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	for _, f := range files {
		d := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
		info, err := f.Info()
		if err != nil || d.Validate() != nil {
			s.log.Warn("not a blob", "file", f.Name())
			continue
		}
		s.add(&entry{digest: d, size: info.Size()})
	}
	return nil
}

func (s *Store) blobDir() string       { return filepath.Join(s.root, "blobs", "sha256") }
func (s *Store) ingestDir() string     { return filepath.Join(s.root, "ingest") }
func (s *Store) quarantineDir() string { return filepath.Join(s.root, "quarantine") }
func (s *Store) file(d digest.Digest) string {
	return filepath.Join(s.blobDir(), d.Encoded())
}

// add makes an entry known, and gives back those that had to go for it.
func (s *Store) add(e *entry) {
	s.mu.Lock()
	if old, ok := s.blobs[e.digest]; ok {
		s.forget(old)
	}
	e.place = s.used.PushBack(e)
	s.blobs[e.digest] = e
	s.size += e.size
	var gone []*entry
	for s.max > 0 && s.size > s.max && s.used.Len() > 1 {
		oldest := s.used.Front().Value.(*entry)
		s.forget(oldest)
		gone = append(gone, oldest)
	}
	s.mu.Unlock()
	for _, e := range gone {
		// Crash before this: the next start finds the file and counts it again.
		if err := os.Remove(s.file(e.digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("evicting a blob", "digest", e.digest, "error", err)
		}
		s.evicted(e.digest)
	}
}

// forget drops an entry; the caller holds mu.
func (s *Store) forget(e *entry) {
	s.used.Remove(e.place)
	delete(s.blobs, e.digest)
	s.size -= e.size
}

// Has tells whether the store holds a blob, without a look at its content.
func (s *Store) Has(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.blobs[d]
	return ok
}

// Usage is the number of blobs and their bytes.
func (s *Store) Usage() (blobs int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.blobs), s.size
}

// Corrupt counts the blobs that were found corrupt on disk.
func (s *Store) Corrupt() int64 { return s.corrupt.Load() }

// Open opens a blob whose content has the right digest. A corrupt one is put
// aside and is not found.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	s.mu.Lock()
	e, ok := s.blobs[d]
	if ok {
		s.used.MoveToBack(e.place)
	}
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	f, err := os.Open(s.file(d))
	if err != nil {
		s.drop(e)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
		}
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if err := s.check(e, f); err != nil {
		s.drop(e) // also one that cannot be read: peers may have it
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// check hashes the file unless it did before and the file is the same.
func (s *Store) check(e *entry, f *os.File) error {
	e.verify.Lock()
	defer e.verify.Unlock()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("blob %s: %w", e.digest, err)
	}
	now := fingerprintOf(info)
	if e.checked == now {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("blob %s: %w", e.digest, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("blob %s: %w", e.digest, err)
	}
	if hex.EncodeToString(h.Sum(nil)) == e.digest.Encoded() {
		e.checked = now
		return nil
	}
	s.corrupt.Add(1)
	s.drop(e)
	s.log.Error("a blob on disk is corrupt: it is put aside and fetched again when it is asked for", "digest", e.digest)
	if err := os.Rename(s.file(e.digest), filepath.Join(s.quarantineDir(), e.digest.Encoded())); err != nil {
		s.log.Error("putting a corrupt blob aside", "digest", e.digest, "error", err)
	}
	return fmt.Errorf("blob %s was corrupt on disk: %w", e.digest, ErrNotFound)
}

func (s *Store) drop(e *entry) {
	s.mu.Lock()
	known := s.blobs[e.digest] == e
	if known {
		s.forget(e)
	}
	s.mu.Unlock()
	if known {
		s.evicted(e.digest)
	}
}

// ReadAll reads a whole blob of at most limit bytes.
func (s *Store) ReadAll(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.Open(d)
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
