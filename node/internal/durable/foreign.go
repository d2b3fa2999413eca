package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NotAFileError says that what has a file's name is not a file.
type NotAFileError struct {
	Name, What string
}

func (e *NotAFileError) Error() string {
	return fmt.Sprintf("%s is %s, not a file: nothing was read or changed; put a file there, or remove it", e.Name, e.What)
}

// Stat describes the file at name, or where a link at name leads; nil if
// nothing is there. Anything that is not a file is a NotAFileError, and so is a
// link that leads nowhere: it means that the file is managed elsewhere.
func Stat(name string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	if err == nil {
		return info, checkRegular(name, info)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, lerr := os.Lstat(name); errors.Is(lerr, fs.ErrNotExist) {
		return nil, nil
	}
	to, _ := os.Readlink(name)
	return nil, &NotAFileError{name, fmt.Sprintf("a link to %s, which is not there", to)}
}

// ReadIfThere reads a file that others maintain and that may not exist. A FIFO, on
// which a read would wait for ever, is refused like all that Stat refuses, and so is a
// file of more than maxForeign bytes.
func ReadIfThere(name string) (content []byte, exists bool, err error) {
	if info, err := Stat(name); err != nil || info == nil {
		return nil, false, err
	}
	// It may have become a FIFO since.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil // removed since
	}
	if err != nil {
		return nil, false, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = checkRegular(name, info)
	}
	if err == nil {
		content, err = io.ReadAll(io.LimitReader(f, maxForeign+1))
	}
	if err == nil && len(content) > maxForeign {
		err = fmt.Errorf("%s has more than %d bytes: it cannot be what belongs there", name, maxForeign)
	}
	if err != nil {
		return nil, false, err
	}
	return content, true, nil
}

// maxForeign bounds keys and settings, in bytes: far more than they have.
const maxForeign = 1 << 20

// Read is ReadIfThere for a file that must be there.
func Read(name string) ([]byte, error) {
	content, exists, err := ReadIfThere(name)
	if err == nil && !exists {
		err = &os.PathError{Op: "open", Path: name, Err: unix.ENOENT}
	}
	return content, err
}

func checkRegular(name string, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return &NotAFileError{name, "a folder"}
	case mode&fs.ModeNamedPipe != 0:
		return &NotAFileError{name, "a FIFO"}
	case mode&fs.ModeSocket != 0:
		return &NotAFileError{name, "a socket"}
	default:
		return &NotAFileError{name, "a device"}
	}
}

// CreateSecret makes a new file that only this user may read, durably. If
// something is there, it is left alone and the error is fs.ErrExist.
func CreateSecret(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// Crash before the end: a part of the file, which was not reported as
	// written. It has to be removed by hand before it is made again.
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = SyncDir(filepath.Dir(name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
