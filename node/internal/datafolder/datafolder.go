// Package datafolder records which mirror owns a data folder on a machine,
// because a process that has the folder can answer for that mirror: its keys and
// sockets are in there. It imports only node/internal/durable; node/cli calls
// it, in the set-up and the clean-up of a machine.
package datafolder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// OwnerFile in a data folder names its owner: NAMESPACE/NAME/UID of a PyrsiaNode.
const OwnerFile = "owner"

// maxOwner bounds an owner's name: NAMESPACE/NAME/UID at its longest.
const maxOwner = 400

// OwnedError says that a data folder is another team's.
type OwnedError struct{ Owner string }

func (e *OwnedError) Error() string {
	name, uid := e.Owner, ""
	if i := strings.LastIndexByte(e.Owner, '/'); i > 0 {
		name, uid = e.Owner[:i], " (UID "+e.Owner[i+1:]+")"
	}
	return fmt.Sprintf("the data folder on this machine belongs to the PyrsiaNode %s%s, and nothing was changed: give this one another spec.storage.hostPath; if that one is gone for good, remove the folder from the machine", name, uid)
}

// Claim makes the owner the owner of a folder, if it has none yet or one of the
// same namespace. The error is an *OwnedError if it is another namespace's.
func Claim(dir, owner string) error {
	if err := check(owner); err != nil {
		return err
	}
	name := filepath.Join(dir, OwnerFile)
	for range 3 { // two may come at the same moment
		is, err := Owner(dir)
		switch {
		case err != nil:
			return err
		case is == owner:
			return nil
		case is == "":
			if err := create(dir, name, owner); !errors.Is(err, fs.ErrExist) {
				return wrap(err)
			}
		case !sameNamespace(is, owner):
			return &OwnedError{is}
		default:
			// Crash before: it is that of the mirror before, and the next run does it again.
			return wrap(durable.WriteFile(name, []byte(owner+"\n")))
		}
	}
	return fmt.Errorf("claiming the data folder: %s comes and goes", name)
}

// Owner is the owner of a folder; empty if it was never claimed.
func Owner(dir string) (string, error) {
	name := filepath.Join(dir, OwnerFile)
	// The folder is another user's: a link out of it, or a pipe, is refused.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", wrap(&os.PathError{Op: "open", Path: name, Err: err})
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxOwner+2))
	owner := strings.TrimSuffix(string(data), "\n")
	if err == nil {
		err = check(owner)
	}
	if err != nil {
		return "", fmt.Errorf("%s does not name an owner: see whose folder it is, and remove that file or the folder: %w", name, err)
	}
	return owner, nil
}

// create makes the file, unless one is there.
func create(dir, name, owner string) error {
	f, err := os.CreateTemp(dir, ".new-owner-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(owner + "\n")
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	// Crash before: a useless temporary file of 400 bytes. Crash after: the
	// folder is claimed, by the owner that is about to claim it again.
	if err == nil {
		err = os.Link(f.Name(), name)
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// sameNamespace tells whether two owners are PyrsiaNodes of one namespace: all in
// it is in the same hands.
func sameNamespace(a, b string) bool {
	nsA, _, ok1 := strings.Cut(a, "/")
	nsB, _, ok2 := strings.Cut(b, "/")
	return ok1 && ok2 && nsA == nsB
}

func check(owner string) error {
	if owner == "" || len(owner) > maxOwner || strings.ContainsFunc(owner, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("want one line of 1 to %d bytes, NAMESPACE/NAME/UID", maxOwner)
	}
	return nil
}

func wrap(err error) error {
	if err != nil {
		err = fmt.Errorf("claiming the data folder: %w", err)
	}
	return err
}
