package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// maxQuarantine is how many corrupt blobs are kept for a look at them.
const maxQuarantine = 8

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

// check is one hashing of a blob, shared by all that wait for it.
type check struct {
	done chan struct{} // closed when err is set
	err  error
}

// isChecked tells whether the open file is the one that was last found to have
// the entry's digest.
func (s *Store) isChecked(e *entry, f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.checked == fingerprintOf(info), nil
}

// verify hashes an entry's file, once for all that wait.
func (s *Store) verify(ctx context.Context, e *entry) error {
	s.mu.Lock()
	c := e.check
	if c == nil {
		c = &check{done: make(chan struct{})}
		e.check = c
		e.readers++
		go s.run(e, c)
	}
	s.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("its file is still being verified: ask again soon (%w)", context.Cause(ctx))
	}
}

// run hashes a blob's file and notes the result.
func (s *Store) run(e *entry, c *check) {
	c.err = s.hash(e, newHasher(), nil)
	s.mu.Lock()
	e.check = nil
	e.readers--
	s.mu.Unlock()
	close(c.done)
}

// Hash hashes a blob of the store with h. It returns nil if the blob has the right
// digest: then whatever else h computes is right too, because it is of the same
// bytes. A corrupt blob is quarantined and not found.
func (s *Store) Hash(ctx context.Context, d digest.Digest, h Hasher) error {
	if _, kept := s.config.Bucket.Size(d); kept && !s.onDisk(d) {
		if err := s.fetch(ctx, d); err != nil {
			return fmt.Errorf("blob %s: %w", d, err)
		}
	}
	e, ok := s.use(d)
	if !ok {
		return fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	defer s.release(e)
	if err := s.hash(e, h, func(int) error { return context.Cause(ctx) }); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}

// hash hashes a blob's file with h and compares the result with the blob's digest. A
// corrupt file is quarantined and not found. goOn, if not nil, is called with the
// number of bytes after each read; an error of it ends the hashing and says nothing
// about the file.
func (s *Store) hash(e *entry, h Hasher, goOn func(n int) error) error {
	// A change while the file is hashed changes the times that it has after.
	f, err := os.OpenFile(s.file(e.digest), os.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.Open(s.file(e.digest)) // somebody else's file
	}
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound // written twice concurrently, and the second one is evicted
	}
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	r := &stoppableReader{file: f, goOn: goOn}
	err = hashAll(h, r)
	if r.stopped != nil {
		return r.stopped
	}
	if err == nil && h.Digest() == e.digest {
		s.mu.Lock()
		e.checked = fingerprintOf(before)
		s.mu.Unlock()
		return nil
	}
	s.quarantine(e, err)
	return fmt.Errorf("it was corrupt on disk: %w", ErrNotFound)
}

// quarantine takes a corrupt blob out of the store. Its file is kept.
func (s *Store) quarantine(e *entry, cause error) {
	s.mu.Lock()
	current := s.blobs[e.digest] == e
	if current {
		s.forget(e)
		// Not synced: after a power cut it may be back, and the next read finds it
		// corrupt again.
		if err := os.Rename(s.file(e.digest), filepath.Join(s.quarantineDir(), e.digest.Encoded())); err != nil {
			s.config.Log.Error("putting a corrupt blob aside", "digest", e.digest, "error", err)
		}
		s.boundQuarantine()
	}
	s.mu.Unlock()
	if !current {
		return // found, or evicted, by another
	}
	s.corrupt.Add(1)
	s.config.Log.Error("a blob on disk is corrupt: it is put aside and fetched again", "digest", e.digest, "error", cause)
	if s.config.Corrupt != nil {
		s.config.Corrupt(e.digest)
	}
}

// boundQuarantine removes the oldest files; the caller holds mu.
func (s *Store) boundQuarantine() {
	files, err := os.ReadDir(s.quarantineDir())
	if err != nil || len(files) <= maxQuarantine {
		return
	}
	age := func(f fs.DirEntry) int64 {
		info, err := f.Info()
		if err != nil {
			return 0
		}
		return info.Sys().(*syscall.Stat_t).Ctim.Nano()
	}
	slices.SortFunc(files, func(a, b fs.DirEntry) int { return int(age(a) - age(b)) })
	for _, f := range files[:len(files)-maxQuarantine] {
		if err := os.Remove(filepath.Join(s.quarantineDir(), f.Name())); err != nil {
			s.config.Log.Error("removing an old corrupt blob", "file", f.Name(), "error", err)
		}
	}
}

// stoppableReader reads a file until goOn has an error.
type stoppableReader struct {
	file    *os.File
	goOn    func(n int) error // may be nil
	stopped error             // goOn's
}

func (r *stoppableReader) Read(p []byte) (int, error) {
	n, err := r.file.Read(p)
	if err == nil && r.goOn != nil {
		r.stopped = r.goOn(n)
		err = r.stopped
	}
	return n, err
}
