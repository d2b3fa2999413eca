package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockFile is in backupDir while anything of ours is set up. Only root may
	// open it, because a process that holds it makes all others wait.
	lockFile = "lock"
	// lockTime is how long the set-up of another mirror may take.
	lockTime = 30 * time.Second
)

func (s Setup) lock() string { return filepath.Join(s.CertsD, backupDir, lockFile) }

// locked calls do while no other set-up of certs.d is running: two mirrors that
// look at the same moment must not both find a registry free. It does nothing
// if there is no certs.d.
func (s Setup) locked(do func() error) error {
	for end := time.Now().Add(lockTime); ; time.Sleep(20 * time.Millisecond) {
		f, err := s.openLock()
		if errors.Is(err, fs.ErrNotExist) {
			if _, missing := os.Stat(s.CertsD); errors.Is(missing, fs.ErrNotExist) {
				return nil
			}
			continue // the last Uninstall has removed the folder at this moment
		}
		if err != nil {
			return fmt.Errorf("locking %s: %w", s.CertsD, err)
		}
		busy := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if busy == nil && s.holds(f) {
			return errors.Join(do(), f.Close())
		}
		if err := f.Close(); err != nil {
			return err
		}
		if busy != nil && !errors.Is(busy, unix.EWOULDBLOCK) && !errors.Is(busy, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", s.CertsD, busy)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is being set up by another process for over %s: see which one has %s open", s.CertsD, lockTime, s.lock())
		}
	}
}

func (s Setup) openLock() (*os.File, error) {
	if err := os.Mkdir(filepath.Join(s.CertsD, backupDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenFile(s.lock(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

// holds tells whether f is the lock still: the last Uninstall removes it.
func (s Setup) holds(f *os.File) bool {
	was, err1 := f.Stat()
	now, err2 := os.Stat(s.lock())
	return err1 == nil && err2 == nil && os.SameFile(was, now)
}
