// Package durable writes files that survive a crash at any instruction, and
// reads files of others without following or waiting for what is not a file. It
// imports nothing of the project; everything that keeps state on disk calls it.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteFile puts data at name: after a crash at any moment name holds all of
// the old content or all of the new. It returns when the new content would
// survive a power cut. A file that is there keeps its mode and its owner, a new
// one may be read by all; what is not a file is refused.
func WriteFile(name string, data []byte) error { return write(name, data, 0o644, Rename) }

// WriteSecret is WriteFile for what only this user may read, if it is new.
func WriteSecret(name string, data []byte) error { return write(name, data, 0o600, Rename) }

// Replace is WriteFile without the wait: a power cut before SyncFiles
// or SyncAll may leave an empty file, but a crash of the process leaves all of
// the old content or all of the new.
func Replace(name string, data []byte) error {
	return write(name, data, 0o644, func(f *os.File, name string) error {
		if err := os.Rename(f.Name(), name); err != nil {
			return err
		}
		return f.Close()
	})
}

// Create puts data in a new file, which SyncFiles or SyncAll makes durable. A
// crash may leave any part of it: it is for what is verified before it is used.
// If the file is there, it is left alone and the error is fs.ErrExist.
func Create(name string, data []byte) error {
	f, err := openRegular(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close(), os.Remove(name))
	}
	return f.Close()
}

// Open opens a regular file for reading.
func Open(name string) (*os.File, error) { return openRegular(name, os.O_RDONLY) }

// ReadAt reads from a regular file at an offset until buf is full or the file
// ends, and tells how many bytes it read. It is for the one read of a file that
// is not kept open, and costs nothing but that.
func ReadAt(name string, buf []byte, offset int64) (n int, err error) {
	fd, err := openFile(name, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], offset+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, &os.PathError{Op: "read", Path: name, Err: err}
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// openRegular is os.OpenFile without the five system calls that find out
// whether the file can be polled.
func openRegular(name string, flag int) (*os.File, error) {
	fd, err := openFile(name, flag)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openFile(name string, flag int) (fd int, err error) {
	for {
		fd, err := unix.Open(name, flag|unix.O_CLOEXEC, 0o644)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

func write(name string, data []byte, mode fs.FileMode, rename func(f *os.File, name string) error) (err error) {
	old, err := Stat(name)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", name, err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if old != nil {
		mode = old.Mode().Perm()
	}
	// The mode comes first: after chown a process may not change it.
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = keepOwner(f, old); err != nil {
		return err
	}
	return rename(f, name)
}

// keepOwner gives a file the owner that old has.
func keepOwner(f *os.File, old fs.FileInfo) error {
	if old == nil {
		return nil
	}
	was, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if is, ok := info.Sys().(*syscall.Stat_t); ok && is.Uid == was.Uid && is.Gid == was.Gid {
		return nil
	}
	// Only root may give files away. Another user writes in folders of its own
	// alone, where no other owner has to be kept.
	if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil && os.Geteuid() == 0 {
		return err
	}
	return nil
}

// SyncFiles makes files and their names durable. It sorts the names.
func SyncFiles(names ...string) error {
	folders := map[string]bool{}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
		folders[filepath.Dir(name)] = true
	}
	for folder := range folders {
		if err := SyncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

// SyncAll makes everything durable on the file system that a folder is on.
func SyncAll(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// Rename moves the written temporary file f to name, durably, and closes it.
// On an error f is left to the caller.
func Rename(f *os.File, name string) error {
	// Crash before the rename: name is as it was, and a temporary file stays
	// that its owner removes at the next start.
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(name)); err != nil {
		return err
	}
	return f.Close()
}

// SyncDir makes the names in a folder durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
