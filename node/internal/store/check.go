package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

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

// check is one hashing of a blob, for all who wait for it.
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

// verify has an entry's file hashed, once for all who wait.
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
	c.err = s.hash(e, sha256Of)
	s.mu.Lock()
	e.check = nil
	e.readers--
	s.mu.Unlock()
	close(c.done)
}

// hash compares a blob's file with its digest. Whatever is corrupt is put
// aside and not found.
func (s *Store) hash(e *entry, sum func(*os.File) (string, error)) error {
	// A change while the file is hashed changes the times that it has after.
	f, err := os.OpenFile(s.file(e.digest), os.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.Open(s.file(e.digest)) // somebody else's file
	}
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound // written by two at once, and the second one is evicted
	}
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	got, err := sum(f)
	if errors.Is(err, errStopped) {
		return err
	}
	if err == nil && got == e.digest.Encoded() {
		s.mu.Lock()
		e.checked = fingerprintOf(before)
		s.mu.Unlock()
		return nil
	}
	s.quarantine(e, err)
	return fmt.Errorf("it was corrupt on disk: %w", ErrNotFound)
}

func sha256Of(f *os.File) (string, error) {
	h := sha256.New()
	_, err := hashAll(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
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

// errStopped ends a scrub in the middle of a file.
var errStopped = errors.New("stopped")

// Scrub hashes all blobs again and again, whether their files have changed or
// not, until ctx ends. It reads rate bytes per second, and rests between two
// passes.
func (s *Store) Scrub(ctx context.Context, rate int64, rest time.Duration) {
	p := &pace{ctx: ctx, rate: rate}
	for {
		for _, d := range s.all() {
			s.scrubOne(d, p)
			if ctx.Err() != nil {
				return
			}
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
	}
}

// all are the digests of all blobs, the most recently used first.
func (s *Store) all() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]digest.Digest, 0, len(s.blobs))
	for place := s.used.Back(); place != nil; place = place.Prev() {
		out = append(out, place.Value.(*entry).digest)
	}
	return out
}

func (s *Store) scrubOne(d digest.Digest, p *pace) {
	s.mu.Lock()
	e, ok := s.blobs[d]
	if ok {
		e.readers++
	}
	s.mu.Unlock()
	if !ok {
		return
	}
	defer s.release(e)
	err := s.hash(e, func(f *os.File) (string, error) {
		if err := p.spent(fileCost); err != nil {
			return "", err
		}
		h := sha256.New()
		_, err := hashAll(h, pacedReader{f, p})
		return hex.EncodeToString(h.Sum(nil)), err
	})
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errStopped) {
		s.config.Log.Error("scrubbing a blob", "digest", d, "error", err)
	}
}

// fileCost is what opening a file counts for, bytes.
const fileCost = 16 << 10

// pace makes a scrub slow.
type pace struct {
	ctx  context.Context
	rate int64 // bytes per second
	debt time.Duration
}

// spent sleeps off n bytes; short naps are saved up.
func (p *pace) spent(n int) error {
	p.debt += time.Duration(float64(n) / float64(p.rate) * float64(time.Second))
	if p.debt > 10*time.Millisecond {
		select {
		case <-time.After(p.debt):
		case <-p.ctx.Done():
		}
		p.debt = 0
	}
	if p.ctx.Err() != nil {
		return errStopped
	}
	return nil
}

type pacedReader struct {
	file *os.File
	pace *pace
}

func (r pacedReader) Read(p []byte) (int, error) {
	n, err := r.file.Read(p)
	if err != nil {
		return n, err
	}
	return n, r.pace.spent(n)
}
