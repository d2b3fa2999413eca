package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// ErrWrongDigest is returned when content is not what its digest says.
var ErrWrongDigest = errors.New("content does not have the expected digest")

// ingestStep is how many bytes are taken from the disk ahead of what arrives: an
// announced size alone gets no more.
const ingestStep = 16 << 20

// Ingest is a blob that is being written. It becomes readable in the store by
// Commit alone.
type Ingest struct {
	file    *os.File
	store   *Store
	digest  digest.Digest // as announced
	hasher  Hasher        // of what was written
	size    int64         // as announced
	written int64
	taken   int64 // bytes that are reserved, and allocated on the disk
}

// Create begins to write a blob of the announced size. The caller ends it by Commit
// or Abort. It returns ErrFull if the blob does not fit; Write does too, because
// space is made as the blob arrives.
func (s *Store) Create(d digest.Digest, size int64) (*Ingest, error) {
	return s.CreateWith(d, size, newHasher())
}

// CreateWith is Create for callers that need more than the digest of the bytes: h
// gets everything that is written, and Commit asks it for the digest. So the
// bytes are hashed as they arrive, and nothing is read back.
func (s *Store) CreateWith(d digest.Digest, size int64, h Hasher) (*Ingest, error) {
	i, err := s.create(d, size, h)
	if err != nil {
		return nil, fmt.Errorf("storing %s: %w", d, err)
	}
	return i, nil
}

func (s *Store) create(d digest.Digest, size int64, h Hasher) (*Ingest, error) {
	f, err := os.CreateTemp(s.ingestDir(), d.Encoded()[:12]+"-*")
	if err != nil {
		return nil, fullOr(err)
	}
	i := &Ingest{file: f, store: s, digest: d, hasher: h, size: size}
	if !s.fits(size) || !s.couldHold(f, size) {
		err = fmt.Errorf("%w: %d bytes", ErrFull, size)
	} else {
		err = i.take(min(size, ingestStep))
	}
	if err != nil {
		return nil, errors.Join(err, i.Abort())
	}
	return i, nil
}

// fits tells whether a blob is within the store's bound, beside those that are
// being written.
func (s *Store) fits(size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config.Max <= 0 || size <= s.config.Max-s.reserved
}

// take makes room for the blob's first bytes.
func (i *Ingest) take(upTo int64) error {
	more := upTo - i.taken
	if more <= 0 {
		return nil
	}
	if err := i.store.reserve(more); err != nil {
		return err
	}
	if err := i.store.allocate(i.file, i.taken, more); err != nil {
		i.store.unreserve(more)
		return fullOr(err)
	}
	i.taken = upTo
	return nil
}

// release gives the reserved room back.
func (i *Ingest) release() {
	i.store.unreserve(i.taken)
	i.taken = 0
}

// reserve keeps room within the store's bound.
func (s *Store) reserve(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit := s.config.Max; limit > 0 {
		if size > limit-s.reserved {
			return fmt.Errorf("%w: %d bytes, of %d at most", ErrFull, size, limit)
		}
		s.shrink(size)
		if s.size+s.reserved+s.unfinishedSize+size > limit {
			return fmt.Errorf("%w: all of it is in use", ErrFull)
		}
	}
	s.reserved += size
	return nil
}

func (s *Store) unreserve(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= size
}

// allocate takes space for a part of a file from the disk now, so that a full one
// is known before the first byte of it comes.
func (s *Store) allocate(f *os.File, offset, size int64) error {
	for {
		var err error
		if size > 0 {
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, offset, size)
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

// couldHold tells whether the disk had the space if all blobs went that may.
func (s *Store) couldHold(f *os.File, size int64) bool {
	var st unix.Statfs_t
	_, blobs := s.Usage()
	if s.config.Pinned {
		blobs = 0
	}
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

// Write implements io.Writer.
func (i *Ingest) Write(p []byte) (int, error) {
	end := i.written + int64(len(p))
	if end > i.taken {
		if err := i.take(max(end, min(i.size, i.taken+ingestStep))); err != nil {
			return 0, err
		}
	}
	n, err := i.file.Write(p)
	i.written += int64(n)
	_, _ = i.hasher.Write(p[:n]) // a Hasher takes everything
	return n, fullOr(err)
}

// Abort drops what was written.
func (i *Ingest) Abort() error {
	i.release()
	return errors.Join(i.file.Close(), os.Remove(i.file.Name()))
}

// Commit puts what was written into the store if it has the right digest;
// otherwise nothing is kept.
func (i *Ingest) Commit() error {
	if err := i.commit(); err != nil {
		return errors.Join(fmt.Errorf("storing %s: %w", i.digest, fullOr(err)), i.Abort())
	}
	i.release()
	if err := errors.Join(durable.SyncDir(i.store.blobDir()), i.file.Close()); err != nil {
		return fmt.Errorf("storing %s: %w", i.digest, err)
	}
	return nil
}

func (i *Ingest) commit() error {
	if got := i.hasher.Digest(); got != i.digest {
		return fmt.Errorf("%w: it is %s", ErrWrongDigest, got)
	}
	// What was allocated but not written goes back.
	if err := errors.Join(i.file.Truncate(i.written), i.file.Chmod(0o644), i.file.Sync()); err != nil {
		return err
	}
	return i.publish(i.written)
}

// publish gives the synced file its name in the store.
func (i *Ingest) publish(size int64) error {
	s := i.store
	s.mu.Lock()
	defer s.mu.Unlock()
	// Crash before the rename: a temporary file, which the next start drops.
	// Crash after it: the blob is there, and the next start counts it.
	if err := os.Rename(i.file.Name(), s.file(i.digest)); err != nil {
		return err
	}
	info, err := i.file.Stat() // after the rename, which changes the times
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
	i, err := s.CreateWith(d, int64(len(data)), hashedBefore(d))
	if err != nil {
		return "", err
	}
	if _, err := i.Write(data); err != nil {
		return "", errors.Join(fmt.Errorf("storing %s: %w", d, err), i.Abort())
	}
	return d, i.Commit()
}
