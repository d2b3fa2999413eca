// Package docker makes a node the registry mirror of the dockerd on its
// machine, by registry-mirrors in daemon.json, and takes that back exactly.
// dockerd reads the file at its start and at SIGHUP.
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
}

func (s Setup) state(name string) string { return filepath.Join(filepath.Dir(s.File), stateDir, name) }

// Install makes dockerd ask the mirror at the given URL first. All other
// settings stay. To install again is safe, also after a crash at any moment.
func (s Setup) Install(mirror string) error {
	if err := s.install(mirror); err != nil {
		return fmt.Errorf("setting docker up in %s: %w", s.File, err)
	}
	return nil
}

func (s Setup) install(mirror string) error {
	if _, err := os.Stat(filepath.Dir(s.File)); err != nil {
		return fmt.Errorf("%w: is Docker installed here?", err)
	}
	// What another Install did is taken back first, so that one original is kept.
	if err := s.uninstall(); err != nil {
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
	if err := s.checkFlags(); err != nil {
		return err
	}
	// Crash before the last line: a backup of what is still in place, which the
	// next run drops.
	if err := os.Mkdir(s.state(""), 0o755); err != nil {
		return err
	}
	if exists {
		// The file itself, so that its owner, mode and times come back too.
		if err := os.Link(s.File, s.state(originalFile)); err != nil {
			return err
		}
	}
	if err := errors.Join(durable.WriteFile(s.state(mirrorFile), []byte(mirror)), durable.WriteSecret(s.state(installedFile), content),
		durable.SyncDir(filepath.Dir(s.File))); err != nil {
		return err
	}
	return durable.WriteFile(s.File, content)
}

// Uninstall restores what was there before Install. If somebody has changed
// the file since, only the mirror is taken out of it.
func (s Setup) Uninstall() error {
	if err := s.uninstall(); err != nil {
		return fmt.Errorf("restoring %s: %w", s.File, err)
	}
	return nil
}

func (s Setup) uninstall() error {
	if err := s.sweep(); err != nil {
		return err
	}
	installed, complete, err := read(s.state(installedFile))
	if err != nil {
		return err
	}
	if complete {
		if err := s.restore(installed); err != nil {
			return err
		}
	}
	// installed goes first: without it nothing is restored any more.
	if err := removeFile(s.state(installedFile)); err != nil {
		return err
	}
	return os.RemoveAll(s.state(""))
}

func (s Setup) restore(installed []byte) error {
	current, exists, err := read(s.File)
	if err != nil || !exists {
		return err // the user has removed it: that stands
	}
	if !bytes.Equal(current, installed) {
		return s.takeOut(current)
	}
	err = os.Rename(s.state(originalFile), s.File)
	if errors.Is(err, fs.ErrNotExist) { // there was none
		err = removeFile(s.File)
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(s.File))
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

// Installed gives the mirrors that dockerd is told to ask, and which of them
// Install added; empty if none.
func (s Setup) Installed() (mirrors []string, ours string, err error) {
	current, exists, err := read(s.File)
	if err != nil || !exists {
		return nil, "", err
	}
	if mirrors, err = mirrorsOf(current); err != nil {
		return nil, "", fmt.Errorf("%s: %w", s.File, err)
	}
	mirror, _, err := read(s.state(mirrorFile))
	if err != nil {
		return nil, "", err
	}
	if slices.Contains(mirrors, string(mirror)) {
		ours = string(mirror)
	}
	return mirrors, ours, nil
}

// sweep removes the temporary files of a process that was killed.
func (s Setup) sweep() error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(s.File), ".new-*"))
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
