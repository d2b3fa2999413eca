// Package containerd makes a node the registry mirror of the containerd on
// its machine, by certs.d/REGISTRY/hosts.toml, and takes that back exactly.
// containerd reads these files at each pull: nothing needs a restart.
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

const (
	hostsFile = "hosts.toml"
	// backupDir holds, for each registry that was taken over, what was there.
	// containerd never looks at it: it is no registry's name.
	backupDir = ".pyrsia-backup"
	// absentFile stands in the backup for a hosts.toml that was not there.
	absentFile = "absent"
	header     = "# Written by Pyrsia. 'pyrsia containerd uninstall' restores what was here before.\n"
)

// Setup is the set-up of some registries in one certs.d.
type Setup struct {
	CertsD     string // such as /etc/containerd/certs.d
	Registries []string
}

func (s Setup) hosts(registry string) string  { return filepath.Join(s.CertsD, registry, hostsFile) }
func (s Setup) backup(registry string) string { return filepath.Join(s.CertsD, backupDir, registry) }

// Install sends pulls of these registries, and no others, to the mirror at the
// given URL. What the user had is kept for Uninstall. To install again is
// safe, also after a crash at any moment.
func (s Setup) Install(mirror string, mode Mode) error {
	if mode != Strict && mode != Fallback {
		return fmt.Errorf("mode %q: want %s or %s", mode, Strict, Fallback)
	}
	if err := s.uninstallOthers(mirror); err != nil {
		return err
	}
	for _, r := range s.Registries {
		if err := s.install(r, hostsTOML(r, mirror, mode)); err != nil {
			return fmt.Errorf("setting containerd up for %s: %w", r, err)
		}
	}
	return nil
}

func (s Setup) install(registry string, content []byte) error {
	if err := checkName(registry); err != nil {
		return err
	}
	current, err := os.ReadFile(s.hosts(registry))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !isOurs(current) {
		if err := s.keep(registry, current, err == nil); err != nil {
			return err
		}
	}
	if bytes.Equal(current, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.hosts(registry)), 0o755); err != nil {
		return err
	}
	// Crash before: a backup of what is still in place, written again by the
	// next Install and dropped by the next Uninstall.
	return durable.WriteFile(s.hosts(registry), content)
}

// keep stores what the user had.
func (s Setup) keep(registry string, current []byte, exists bool) error {
	if err := os.MkdirAll(s.backup(registry), 0o755); err != nil {
		return err
	}
	name := hostsFile
	if !exists {
		name = absentFile
		// Says also whether the folder was there, so that it stays or goes.
		_, err := os.Stat(filepath.Join(s.CertsD, registry))
		current = fmt.Appendf(nil, "%t\n", err == nil)
	}
	return durable.WriteFile(filepath.Join(s.backup(registry), name), current)
}

// Uninstall restores what was there before Install. A hosts.toml that
// somebody has written since is left as it is.
func (s Setup) Uninstall() error {
	for _, r := range s.Registries {
		if err := s.uninstall(r); err != nil {
			return fmt.Errorf("restoring containerd's set-up for %s: %w", r, err)
		}
	}
	// The last one out takes the folder along.
	if err := os.Remove(filepath.Join(s.CertsD, backupDir)); err != nil && !errors.Is(err, fs.ErrNotExist) && !isNotEmpty(err) {
		return err
	}
	return nil
}

// uninstallOthers restores the registries that an earlier Install sent to the
// same mirror and that are not listed any more.
func (s Setup) uninstallOthers(mirror string) error {
	taken, err := os.ReadDir(filepath.Join(s.CertsD, backupDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading containerd's set-up: %w", err)
	}
	for _, t := range taken {
		if slices.Contains(s.Registries, t.Name()) {
			continue
		}
		current, err := os.ReadFile(s.hosts(t.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reading containerd's set-up for %s: %w", t.Name(), err)
		}
		if !isOurs(current) || !bytes.Contains(current, fmt.Appendf(nil, "[host.%q]", mirror)) {
			continue // another node's, or the user's again
		}
		if err := s.uninstall(t.Name()); err != nil {
			return fmt.Errorf("restoring containerd's set-up for %s: %w", t.Name(), err)
		}
	}
	return nil
}

func (s Setup) uninstall(registry string) error {
	if err := checkName(registry); err != nil {
		return err
	}
	current, err := os.ReadFile(s.hosts(registry))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if isOurs(current) {
		if err := s.restore(registry); err != nil {
			return err
		}
	}
	// Crash before: a backup without use, which the next Uninstall drops.
	return os.RemoveAll(s.backup(registry))
}

func (s Setup) restore(registry string) error {
	old, err := os.ReadFile(filepath.Join(s.backup(registry), hostsFile))
	if err == nil {
		return durable.WriteFile(s.hosts(registry), old)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	hadDir, err := os.ReadFile(filepath.Join(s.backup(registry), absentFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(s.hosts(registry)); err != nil {
		return err
	}
	if string(hadDir) == "true\n" {
		return nil
	}
	if err := os.Remove(filepath.Dir(s.hosts(registry))); err != nil && !isNotEmpty(err) {
		return err
	}
	return nil
}

// Installed tells for each registry whether its pulls go to a Pyrsia node.
func (s Setup) Installed() (map[string]bool, error) {
	out := map[string]bool{}
	for _, r := range s.Registries {
		current, err := os.ReadFile(s.hosts(r))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading containerd's set-up for %s: %w", r, err)
		}
		out[r] = isOurs(current)
	}
	return out, nil
}

func isOurs(content []byte) bool { return bytes.HasPrefix(content, []byte(header)) }

func isNotEmpty(err error) bool {
	return errors.Is(err, fs.ErrExist) || strings.Contains(err.Error(), "not empty")
}

// checkName refuses a registry's name that would lead out of certs.d.
func checkName(registry string) error {
	if registry == "" || strings.HasPrefix(registry, ".") || strings.ContainsAny(registry, "/\\\x00") {
		return fmt.Errorf("%q is not the name of a registry", registry)
	}
	return nil
}

// hostsTOML is the file for one registry. containerd 1.6 knows strictness only
// when the node is both the server and the host; 2.x takes it the same way.
func hostsTOML(registry, mirror string, mode Mode) []byte {
	server := mirror
	if mode == Fallback {
		server = "https://" + registry
		if registry == "docker.io" {
			server = "https://registry-1.docker.io"
		}
	}
	return fmt.Appendf(nil, `%s# Mode: %s
server = %q

[host.%q]
  capabilities = ["pull", "resolve"]
`, header, mode, server, mirror)
}
