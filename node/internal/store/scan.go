package store

import (
	"cmp"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// onDisk is a file that scan found.
type onDisk struct {
	entry *entry // nil if it is not a blob
	used  int64  // when, Unix time in nanoseconds
}

// scan finds the blobs. Those that were read last, as far as the file system
// notes it, are the last to go. A node starts no sooner than this is done, so
// all processors look.
func (s *Store) scan() error {
	dir, err := os.Open(s.blobDir())
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	found := make([]onDisk, len(names))
	each := len(names)/runtime.GOMAXPROCS(0) + 1
	var done sync.WaitGroup
	for first := 0; first < len(names); first += each {
		done.Go(func() {
			for i := first; i < min(first+each, len(names)); i++ {
				found[i] = look(int(dir.Fd()), names[i])
			}
		})
	}
	done.Wait()
	for i, f := range found {
		if f.entry == nil {
			s.config.Log.Warn("not a blob", "file", names[i])
		}
	}
	found = slices.DeleteFunc(found, func(f onDisk) bool { return f.entry == nil })
	slices.SortFunc(found, func(a, b onDisk) int { return cmp.Compare(a.used, b.used) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range found {
		s.add(f.entry)
	}
	s.shrink(0)
	return nil
}

// look looks at one file.
func look(dir int, name string) onDisk {
	var st unix.Stat_t
	if !isHash(name) || unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return onDisk{}
	}
	return onDisk{
		entry: &entry{digest: digest.NewDigestFromEncoded(digest.SHA256, name), size: st.Size},
		used:  max(st.Atim.Nano(), st.Mtim.Nano()),
	}
}

// isHash tells whether a name is a SHA-256 as a digest has it.
func isHash(name string) bool {
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(name) == 64
}
