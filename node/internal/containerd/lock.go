package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockTime is how long the set-up of another mirror may take.
const lockTime = 30 * time.Second

// locked calls do while no other set-up of certs.d runs: two mirrors that look
// at the same moment must not both find a registry free. The lock is on the
// folder itself, so that nothing is left of it and pods that mount the folder
// share it. It does nothing if there is no certs.d.
func (s Setup) locked(do func() error) error {
	for end := time.Now().Add(lockTime); ; time.Sleep(20 * time.Millisecond) {
		d, err := os.Open(s.CertsD)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		busy := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if busy == nil && s.is(d) {
			return errors.Join(do(), d.Close())
		}
		if err := d.Close(); err != nil {
			return err
		}
		if busy != nil && !errors.Is(busy, unix.EWOULDBLOCK) && !errors.Is(busy, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", s.CertsD, busy)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is being set up by another process for over %s: see which one has it open", s.CertsD, lockTime)
		}
	}
}

// is tells whether d is certs.d still: the last Uninstall removes the folder.
func (s Setup) is(d *os.File) bool {
	was, err1 := d.Stat()
	now, err2 := os.Stat(s.CertsD)
	return err1 == nil && err2 == nil && os.SameFile(was, now)
}
