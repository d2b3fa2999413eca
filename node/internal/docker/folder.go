package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/systemd"
)

// createdFile stands in the state if Docker's folder was not there: some packages
// do not create /etc/docker.
const createdFile = "created"

// beside are folders next to Docker's in which it is made, and goes.
func (s Setup) beside(what string) string { return s.folder() + ".pyrsia-" + what }

// MakeFolder makes Docker's folder if it is not there and Docker is.
func (s Setup) MakeFolder() error {
	if err := s.sweepBeside(); err != nil {
		return err
	}
	if _, err := os.Stat(s.folder()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if there, err := s.isInstalled(); err != nil {
		return err
	} else if !there {
		return fmt.Errorf("%s is not there, nor a dockerd on the PATH, nor a unit %s: is Docker installed here?", s.folder(), unitFile)
	}
	making := s.beside("new")
	if err := os.MkdirAll(filepath.Join(making, stateDir), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(making, stateDir, createdFile), nil); err != nil {
		return err
	}
	// Crash before: a folder beside, which the next run removes.
	return s.rename(making, s.folder())
}

// DropFolder removes the state, and the folder if MakeFolder made it and nothing
// else has come into it.
func (s Setup) DropFolder() error {
	if _, err := os.Stat(s.state(createdFile)); err == nil {
		entries, err := os.ReadDir(s.folder())
		if err != nil {
			return err
		}
		if len(entries) == 1 {
			// Crash after: a folder beside, which the next run removes.
			return errors.Join(s.rename(s.folder(), s.beside("old")), s.sweepBeside())
		}
	}
	return os.RemoveAll(s.state(""))
}

func (s Setup) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(s.folder()))
}

func (s Setup) sweepBeside() error {
	return errors.Join(os.RemoveAll(s.beside("new")), os.RemoveAll(s.beside("old")))
}

// isInstalled tells whether there is a dockerd that could read the folder.
func (s Setup) isInstalled() (bool, error) {
	if _, err := exec.LookPath("dockerd"); err == nil {
		return true, nil
	}
	u, err := systemd.Read(s.Units, unitFile)
	return u.File != "", err
}
