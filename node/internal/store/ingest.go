package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// ErrWrongDigest is returned when content is not what its digest says.
var ErrWrongDigest = errors.New("content does not have the expected digest")

// Ingest is a blob that is being written. It becomes readable in the store by
// Commit alone.
type Ingest struct {
	*os.File
	store   *Store
	digest  digest.Digest
	release func() // gives the reserved room back, once
}

// Create begins to write a blob of a size, for which it makes room. The
// caller ends it by Commit or Abort. ErrFull says that there is no room.
func (s *Store) Create(d digest.Digest, size int64) (*Ingest, error) {
	i, err := s.create(d, size)
	if err != nil {
		return nil, fmt.Errorf("storing %s: %w", d, err)
	}
	return i, nil
}

func (s *Store) create(d digest.Digest, size int64) (*Ingest, error) {
	release, err := s.reserve(size)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.ingestDir(), d.Encoded()[:12]+"-*")
	if err != nil {
		release()
		return nil, fullOr(err)
	}
	if err := s.allocate(f, size); err != nil {
		release()
		return nil, errors.Join(fullOr(err), f.Close(), os.Remove(f.Name()))
	}
	return &Ingest{File: f, store: s, digest: d, release: release}, nil
}

// reserve keeps a blob's room within the store's bound.
func (s *Store) reserve(size int64) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit := s.config.Max; limit > 0 {
		if size > limit-s.reserved {
			return nil, fmt.Errorf("%w: %d bytes, of %d at most", ErrFull, size, limit)
		}
		s.shrink(size)
		if s.size+s.reserved+s.unfinishedSize+size > limit {
			return nil, fmt.Errorf("%w: all of it is in use", ErrFull)
		}
	}
	s.reserved += size
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reserved -= size
	}), nil
}

// allocate takes the file's space from the disk now, so that a full one is
// known before the first byte comes.
func (s *Store) allocate(f *os.File, size int64) error {
	for {
		var err error
		if size > 0 {
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
		}
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINTR) {
			return nil // some file systems cannot: writing tells
		}
		if !isFull(err) || !s.couldHold(f, size) {
			return err
		}
		s.mu.Lock()
		freed := s.evict()
		s.mu.Unlock()
		if freed == 0 {
			return err
		}
	}
}

// couldHold tells whether the disk had the space if all blobs went.
func (s *Store) couldHold(f *os.File, size int64) bool {
	var st unix.Statfs_t
	_, blobs := s.Usage()
	return unix.Fstatfs(int(f.Fd()), &st) != nil || int64(st.Bavail)*st.Bsize+blobs >= size
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func fullOr(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// WriteAt writes a part.
func (i *Ingest) WriteAt(p []byte, offset int64) (int, error) {
	n, err := i.File.WriteAt(p, offset)
	return n, fullOr(err)
}

// Abort drops what was written.
func (i *Ingest) Abort() error {
	i.release()
	return errors.Join(i.Close(), os.Remove(i.Name()))
}

// Commit hashes what was written and puts it into the store if it has the
// right digest; otherwise nothing is kept.
func (i *Ingest) Commit() error {
	if err := i.commit(); err != nil {
		return errors.Join(fmt.Errorf("storing %s: %w", i.digest, fullOr(err)), i.Abort())
	}
	i.release()
	if err := errors.Join(durable.SyncDir(i.store.blobDir()), i.Close()); err != nil {
		return fmt.Errorf("storing %s: %w", i.digest, err)
	}
	return nil
}

func (i *Ingest) commit() error {
	if _, err := i.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	size, err := io.CopyBuffer(h, struct{ io.Reader }{i.File}, make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != i.digest {
		return fmt.Errorf("%w: it is %s", ErrWrongDigest, got)
	}
	// What was allocated but not written goes back.
	if err := errors.Join(i.Truncate(size), i.Chmod(0o644), i.Sync()); err != nil {
		return err
	}
	return i.publish(size)
}

// publish gives the synced file its name in the store.
func (i *Ingest) publish(size int64) error {
	s := i.store
	s.mu.Lock()
	defer s.mu.Unlock()
	// Crash before the rename: a temporary file, which the next start drops.
	// Crash after it: the blob is there, and the next start counts it.
	if err := os.Rename(i.Name(), s.file(i.digest)); err != nil {
		return err
	}
	info, err := i.Stat() // after the rename, which changes the times
	if err != nil {
		return err
	}
	s.add(&entry{digest: i.digest, size: size, checked: fingerprintOf(info)})
	return nil
}

// Put stores a small blob.
func (s *Store) Put(data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	if s.onDisk(d) { // if it is corrupt, it is not there any more after this
		if b, err := s.openLocal(context.Background(), d); err == nil {
			return d, b.Close()
		}
	}
	if s.Has(d) {
		return d, nil
	}
	i, err := s.Create(d, int64(len(data)))
	if err != nil {
		return "", err
	}
	if _, err := i.Write(data); err != nil {
		return "", errors.Join(fmt.Errorf("storing %s: %w", d, fullOr(err)), i.Abort())
	}
	return d, i.Commit()
}
