package transfer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// hole tells whether nothing was ever written to a range of a file.
func hole(f *os.File, offset, length int64) (bool, error) {
	next, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // no more data in the file
		return true, nil
	}
	return err == nil && next >= offset+length, err
}
