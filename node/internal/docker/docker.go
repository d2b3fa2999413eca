// Package docker makes a node the registry mirror of the dockerd on its
// machine, by registry-mirrors in daemon.json, and restores exactly what was
// there before. dockerd reads the file at its start and at SIGHUP. It may
// import durable and systemd; node/cli calls it.
package docker

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	mirrorsKey = "registry-mirrors"
	// stateDir, beside daemon.json, holds what Uninstall needs.
	stateDir      = ".pyrsia-backup"
	originalFile  = "daemon.json" // the user's, if there was one
	installedFile = "installed"   // the content that Install wrote, with what it may hold: a proxy's password
	mirrorFile    = "mirror"      // URL
)

// Setup is the set-up of one daemon.json.
type Setup struct {
	File string // such as /etc/docker/daemon.json
	// Units are the folders of the systemd units that start dockerd, and Standard
	// is the daemon.json that it reads if it is not told of another one.
	Units    []string
	Standard string
}

func (s Setup) folder() string           { return filepath.Dir(s.File) }
func (s Setup) state(name string) string { return filepath.Join(s.folder(), stateDir, name) }

// Install makes dockerd ask the mirror at the given URL first. All other
// settings stay. To install again is safe, also after a crash at any moment.
func (s Setup) Install(mirror string) error {
	if err := s.install(mirror); err != nil {
		return fmt.Errorf("setting docker up in %s: %w", s.File, err)
	}
	return nil
}

func (s Setup) install(mirror string) error {
	// What another Install did is taken back first, so that one original is kept.
	if _, err := s.uninstall(false); err != nil {
		return err
	}
	original, exists, err := read(s.File)
	if err != nil {
		return err
	}
	content, err := withMirror(original, mirror)
	if err != nil {
		return err
	}
	if err := s.MakeFolder(); err != nil {
		return err
	}
	if err := s.check(content); err != nil {
		return errors.Join(err, s.DropFolder())
	}
	// Crash before the last line: a backup of what is still in place, which the
	// next run drops.
	if err := os.Mkdir(s.state(""), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if exists {
		// The file itself, so that its owner, mode and times come back too.
		if err := os.Link(s.File, s.state(originalFile)); err != nil {
			return err
		}
	}
	if err := errors.Join(durable.WriteFile(s.state(mirrorFile), []byte(mirror)), durable.WriteSecret(s.state(installedFile), content),
		durable.SyncDir(s.folder())); err != nil {
		return err
	}
	return durable.WriteFile(s.File, content)
}

// Uninstall restores what was there before Install. If somebody has changed the
// file since, only the mirror is taken out of it. asks says that a dockerd may
// still ask the mirror: on SIGHUP it keeps the mirrors that it had unless the file
// has an empty list of them. So the file may be left with an empty list, which
// emptied reports, until Uninstall is called when dockerd no longer asks the
// mirror.
func (s Setup) Uninstall(asks bool) (emptied bool, err error) {
	if emptied, err = s.uninstall(asks); err != nil {
		return emptied, fmt.Errorf("restoring %s: %w", s.File, err)
	}
	return emptied, nil
}

func (s Setup) uninstall(asks bool) (emptied bool, err error) {
	if err := s.sweep(); err != nil {
		return false, err
	}
	installed, complete, err := read(s.state(installedFile))
	if err != nil {
		return false, err
	}
	if complete {
		if emptied, err = s.restore(installed, asks); err != nil || emptied {
			return emptied, err
		}
	}
	// installed goes first: without it nothing is restored any more.
	if err := removeFile(s.state(installedFile)); err != nil {
		return false, err
	}
	return false, s.DropFolder()
}

func (s Setup) restore(installed []byte, asks bool) (emptied bool, err error) {
	current, exists, err := read(s.File)
	if err != nil || !exists {
		return false, err // the user has removed it: that stands
	}
	none, err := setMirrors(installed, nil)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(current, installed) && !bytes.Equal(current, none) {
		return false, s.takeOut(current)
	}
	original, existed, err := read(s.state(originalFile))
	if err != nil {
		return false, err
	}
	if asks && !hasMirrors(original) {
		// Crash before: all is as Install left it.
		return true, durable.WriteFile(s.File, none)
	}
	if existed {
		err = os.Rename(s.state(originalFile), s.File)
	} else {
		err = removeFile(s.File)
	}
	if err != nil {
		return false, err
	}
	return false, durable.SyncDir(s.folder())
}

// takeOut removes the mirror from a file that is the user's.
func (s Setup) takeOut(current []byte) error {
	mirror, _, err := read(s.state(mirrorFile))
	if err != nil {
		return err
	}
	mirrors, err := mirrorsOf(current)
	if err != nil || !slices.Contains(mirrors, string(mirror)) {
		return nil // what the user has written is not ours to judge
	}
	content, err := setMirrors(current, slices.DeleteFunc(mirrors, func(m string) bool { return m == string(mirror) }))
	if err != nil {
		return err
	}
	return durable.WriteFile(s.File, content)
}

// State is what a daemon.json tells dockerd of mirrors.
type State struct {
	Mirrors   []string
	Installed string // the mirror that Install added, as long as Uninstall has to do
	Ours      string // the same, if it is among the mirrors
	Emptied   bool   // the mirror was removed, and Uninstall must be called again
	// ImageStore is the one that the settings choose; empty if they choose none.
	ImageStore string
}

// Status reads what the file tells dockerd.
func (s Setup) Status() (out State, err error) {
	current, _, err := read(s.File)
	if err != nil {
		return out, err
	}
	if out.Mirrors, err = mirrorsOf(current); err != nil {
		return out, fmt.Errorf("%s: %w", s.File, err)
	}
	out.ImageStore = imageStoreOf(current)
	mirror, _, err := read(s.state(mirrorFile))
	if err != nil {
		return out, err
	}
	out.Installed = string(mirror)
	if slices.Contains(out.Mirrors, out.Installed) {
		out.Ours = out.Installed
	}
	out.Emptied = out.Installed != "" && out.Ours == "" && hasMirrors(current)
	return out, nil
}

// sweep removes the temporary files of a process that was killed.
func (s Setup) sweep() error {
	left, err := filepath.Glob(filepath.Join(s.folder(), ".new-*"))
	err = errors.Join(err, s.sweepBeside())
	for _, name := range left {
		err = errors.Join(err, removeFile(name))
	}
	return err
}

// read reads a file that may not be there.
func read(name string) (content []byte, exists bool, err error) { return durable.ReadIfThere(name) }

func removeFile(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
