// Package containerd makes a node the registry mirror of the containerd on its
// machine, by certs.d/REGISTRY/hosts.toml, and restores exactly what was there
// before. containerd reads these files at each pull, so nothing needs a
// restart. Each file names its owner, and no mirror touches what another one
// owns. The package may import the ledger for names of registries; node/cli
// calls it.
package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// Mode is what containerd does with what the node refuses.
type Mode string

const (
	// Strict leaves no way around the node: what it refuses is not pulled.
	Strict Mode = "Strict"
	// Fallback goes on to the registry itself.
	Fallback Mode = "Fallback"
)

const hostsFile = "hosts.toml"

// Setup is one mirror's set-up in one certs.d.
type Setup struct {
	CertsD string // such as /etc/containerd/certs.d
	Owner  string // whose set-up it is, such as NAMESPACE/NAME/UID of a PyrsiaNode
	// Registries are those whose pulls go to the mirror. Docker Hub is set up
	// under all its names, whichever is listed. _default stands for all
	// registries without a folder of their own.
	Registries []string
}

func (s Setup) dir(folder string) string   { return filepath.Join(s.CertsD, folder) }
func (s Setup) hosts(folder string) string { return filepath.Join(s.CertsD, folder, hostsFile) }

func (s Setup) check() error {
	for _, r := range s.Registries {
		if err := checkName(r); err != nil {
			return err
		}
	}
	return checkOwner(s.Owner)
}

// Install sends pulls of these registries to the mirror at the given URL. What
// the user had is kept for Uninstall. What the same owner had set up differently,
// at another URL or for registries that are no longer listed, is changed or
// restored; the restored folders are returned. With Fallback the registries and
// mirrors that the user had set up are asked after the mirror, as they are now.
// If another owner has one of the registries, nothing is changed except for a
// claim to it within a team, and the error is an *OwnedError. Files that cannot
// be kept are a *RefusedError. Installing again is safe, even after a crash at
// any moment.
func (s Setup) Install(mirror string, mode Mode) (restored []string, err error) {
	if mode != Strict && mode != Fallback {
		return nil, fmt.Errorf("mode %q: want %s or %s", mode, Strict, Fallback)
	}
	if mode == Strict && slices.Contains(s.Registries, defaultFolder) {
		return nil, fmt.Errorf("strict for %s would keep this machine from every registry without a folder of its own, from those of its own system too: name the registries that are to be strict, or set %[1]s up with mode %s", defaultFolder, Fallback)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := s.begin(); err != nil {
		return nil, fmt.Errorf("setting containerd up: %w", err)
	}
	err = s.locked(func() (err error) {
		restored, err = s.installAll(mirror, mode)
		return err
	})
	return restored, err
}

func (s Setup) installAll(mirror string, mode Mode) (restored []string, err error) {
	wanted, err := s.files(mirror, mode)
	if err != nil {
		return nil, err
	}
	if err := s.refuse(wanted, mirror); err != nil {
		return nil, err
	}
	for _, f := range wanted {
		if err := s.install(f); err != nil {
			return nil, fmt.Errorf("setting containerd up for %s: %w", f.registry, err)
		}
	}
	// Last, so that the registries which stay are not without a set-up meanwhile.
	if restored, err = s.restoreOthers(wanted, mirror); err == nil {
		err = s.dropClaims()
	}
	if err != nil {
		return restored, fmt.Errorf("restoring containerd's set-up: %w", err)
	}
	return restored, nil
}

// refuse looks at all folders before any is written, and claims those that
// another mirror has.
func (s Setup) refuse(wanted []file, mirror string) error {
	for _, f := range wanted {
		if err := s.checkPlace(f.name); err != nil {
			return fmt.Errorf("setting containerd up for %s: %w", f.registry, err)
		}
	}
	var owned error
	for _, f := range wanted {
		current, _, err := read(s.hosts(f.name))
		if err != nil {
			return fmt.Errorf("reading containerd's set-up for %s: %w", f.registry, err)
		}
		h, ours := parse(current)
		if !ours || s.inherits(h, mirror) {
			continue
		}
		if owned == nil {
			owned = &OwnedError{Registry: f.registry, File: s.hosts(f.name), Owner: h.owner, Mirror: h.mirror}
		}
		if err := s.putClaim(f.name, h.owner, f.content); err != nil {
			return fmt.Errorf("waiting for %s: %w", f.registry, err)
		}
	}
	return owned
}

func (s Setup) install(f file) error {
	if err := s.sweep(f.name); err != nil {
		return err
	}
	current, exists, err := read(s.hosts(f.name))
	if err != nil {
		return err
	}
	_, ours := parse(current)
	if _, err := os.Readlink(s.hosts(f.name)); err == nil {
		ours = false // it may lead to ours in another folder
	}
	if !ours {
		if err := s.keep(f.name, exists); err != nil {
			return err
		}
	}
	if ours && bytes.Equal(current, f.content) {
		return nil
	}
	if err := os.MkdirAll(s.dir(f.name), 0o755); err != nil {
		return err
	}
	// Crash before: a backup of what is still in place, which the next Install
	// renews and the next Uninstall drops.
	return s.put(f.name, f.content)
}

// put writes a folder's hosts.toml. What it has from another folder can be read
// by no more users here: it may hold a password.
func (s Setup) put(folder string, content []byte) error {
	if h, _ := parse(content); h.below == "" || h.below == folder {
		return durable.WriteFile(s.hosts(folder), content)
	}
	return writeSecret(s.hosts(folder), content)
}

// writeSecret is durable.WriteSecret for a file that more users could read before.
func writeSecret(name string, content []byte) error {
	if err := os.Chmod(name, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteSecret(name, content)
}

// restoreOthers restores what an earlier Install of the same owner set up and
// this one did not.
func (s Setup) restoreOthers(wanted []file, mirror string) (restored []string, err error) {
	taken, err := s.kept()
	if err != nil {
		return nil, err
	}
	for _, name := range taken {
		if slices.ContainsFunc(wanted, func(f file) bool { return f.name == name }) {
			continue
		}
		current, _, err := read(s.hosts(name))
		if err != nil {
			return restored, err
		}
		if h, ours := parse(current); !ours || !s.inherits(h, mirror) {
			continue // another mirror's, or the user's again
		}
		if err := s.uninstall(name); err != nil {
			return restored, err
		}
		restored = append(restored, name)
	}
	return restored, nil
}

// Uninstall restores what was there before Install, of these registries or, if none is
// listed, of all that the owner has. A hosts.toml that another mirror owns, or that was
// changed since, is left as it is; if another mirror of the same team waits for the
// registry, that one gets it instead. mirror is the URL of a mirror whose files may be
// without an owner, because v0.1.0 wrote them; if it is empty, all such files are taken
// back.
func (s Setup) Uninstall(mirror string) error {
	if err := s.check(); err != nil {
		return err
	}
	err := s.locked(func() error { return s.uninstallAll(mirror) })
	if err == nil {
		err = s.sweepBeside()
	}
	if err != nil {
		return fmt.Errorf("restoring containerd's set-up: %w", err)
	}
	return nil
}

// Closed is the mirror URL of a strict folder while another process has the
// mirror's port: nothing listens there, and only root could.
const Closed = "http://127.0.0.1:1"

// Disarm keeps pulls from the mirror at the given URL: another process answers
// there. What is strict refuses all pulls until the next Install, unless another
// mirror waits for it; of the rest the user gets back what was there. It tells
// which folders these are.
func (s Setup) Disarm(mirror string) (closed, restored []string, err error) {
	if err := s.check(); err != nil {
		return nil, nil, err
	}
	err = s.locked(func() error {
		armed, err := s.armed(mirror)
		for _, f := range armed {
			_, waits, err := s.claimant(f.Registry)
			switch {
			case err != nil:
			case f.Mode == Strict && !waits:
				closed = append(closed, f.Registry)
				err = durable.WriteFile(s.hosts(f.Registry), s.strict(Closed))
			default:
				restored = append(restored, f.Registry)
				err = s.uninstall(f.Registry)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", f.Registry, err)
			}
		}
		if err != nil {
			return err
		}
		return s.end()
	})
	if err == nil {
		err = s.sweepBeside()
	}
	if err != nil {
		return closed, restored, fmt.Errorf("keeping pulls from %s: %w", mirror, err)
	}
	return closed, restored, nil
}

// Armed tells whether anything of s sends pulls to the mirror at the given URL.
func (s Setup) Armed(mirror string) (bool, error) {
	armed, err := s.armed(mirror)
	return len(armed) > 0, err
}

func (s Setup) armed(mirror string) ([]State, error) {
	installed, err := s.Installed()
	return slices.DeleteFunc(installed, func(f State) bool {
		return f.Mirror != mirror || !s.inherits(hosts{mirror: f.Mirror, owner: f.Owner}, mirror)
	}), err
}

func (s Setup) uninstallAll(mirror string) error {
	names, err := s.kept()
	if err != nil {
		return err
	}
	if len(s.Registries) > 0 {
		names = nil
		for _, f := range folders(s.Registries) {
			names = append(names, f.name)
		}
	}
	if err := s.dropClaims(); err != nil {
		return err
	}
	var failed error // one folder keeps no other from being restored
	for _, name := range names {
		current, _, err := read(s.hosts(name))
		if h, ours := parse(current); err == nil && (!ours || s.owns(h, mirror)) {
			err = s.uninstall(name)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	if failed != nil {
		return failed
	}
	return s.end()
}

// uninstall gives a folder to the owner that waits for it, or back to the user.
func (s Setup) uninstall(folder string) error {
	if err := s.sweep(folder); err != nil {
		return err
	}
	current, exists, err := read(s.hosts(folder))
	if err != nil {
		return err
	}
	_, ours := parse(current)
	if _, err := os.Stat(s.backup(folder)); !ours && errors.Is(err, fs.ErrNotExist) {
		return nil // nothing of ours was ever there
	}
	if err := s.checkPlace(folder); err != nil {
		return err
	}
	next, waits, err := s.claimant(folder)
	if err != nil {
		return err
	}
	if ours && waits {
		// Crash before: all is as it was, and the next run does it again. Crash
		// after: a claim to what the claimant has, which its next Install drops.
		if err := s.put(folder, next); err != nil {
			return err
		}
		return removeFile(s.claim(folder))
	}
	if ours || !exists {
		if err := s.restore(folder); err != nil {
			return err
		}
	}
	// Crash before: a backup without use, which the next Uninstall drops.
	return s.drop(folder)
}

// checkName refuses a registry's name that would lead out of certs.d.
func checkName(registry string) error {
	if registry == "" || strings.HasPrefix(registry, ".") || strings.ContainsAny(registry, "/\\\x00\n\"") {
		return fmt.Errorf("%q is not the name of a registry", registry)
	}
	return nil
}
