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
	"regexp"
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
	header    = "# Written by Pyrsia. 'pyrsia containerd uninstall' restores what was here before.\n"
)

// Setup is the set-up of some registries in one certs.d.
type Setup struct {
	CertsD     string // such as /etc/containerd/certs.d
	Registries []string
}

func (s Setup) dir(registry string) string   { return filepath.Join(s.CertsD, registry) }
func (s Setup) hosts(registry string) string { return filepath.Join(s.CertsD, registry, hostsFile) }

// Install sends pulls of these registries, and no others, to the mirror at the
// given URL. What the user had is kept for Uninstall. To install again is
// safe, also after a crash at any moment.
func (s Setup) Install(mirror string, mode Mode) error {
	if mode != Strict && mode != Fallback {
		return fmt.Errorf("mode %q: want %s or %s", mode, Strict, Fallback)
	}
	for _, r := range s.Registries {
		if err := checkName(r); err != nil {
			return err
		}
	}
	if err := s.begin(); err != nil {
		return fmt.Errorf("setting containerd up: %w", err)
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
	if err := s.sweep(registry); err != nil {
		return err
	}
	current, exists, err := read(s.hosts(registry))
	if err != nil {
		return err
	}
	if !isOurs(current) {
		if err := s.keep(registry, exists); err != nil {
			return err
		}
	}
	if bytes.Equal(current, content) {
		return nil
	}
	if err := os.MkdirAll(s.dir(registry), 0o755); err != nil {
		return err
	}
	// Crash before: a backup of what is still in place, which the next Install
	// renews and the next Uninstall drops.
	return durable.WriteFile(s.hosts(registry), content)
}

// Uninstall restores what was there before Install. A hosts.toml that
// somebody has written since is left as it is.
func (s Setup) Uninstall() error {
	for _, r := range s.Registries {
		if err := checkName(r); err != nil {
			return err
		}
		if err := s.uninstall(r); err != nil {
			return fmt.Errorf("restoring containerd's set-up for %s: %w", r, err)
		}
	}
	if err := s.end(); err != nil {
		return fmt.Errorf("restoring containerd's set-up: %w", err)
	}
	return nil
}

// uninstallOthers restores the registries that an earlier Install sent to the
// same mirror and that are not listed any more.
func (s Setup) uninstallOthers(mirror string) error {
	taken, err := s.kept()
	if err != nil {
		return fmt.Errorf("reading containerd's set-up: %w", err)
	}
	for _, r := range taken {
		if slices.Contains(s.Registries, r) {
			continue
		}
		current, _, err := read(s.hosts(r))
		if err != nil {
			return fmt.Errorf("reading containerd's set-up for %s: %w", r, err)
		}
		if !isOurs(current) || !bytes.Contains(current, fmt.Appendf(nil, "[host.%q]", mirror)) {
			continue // another node's, or the user's again
		}
		if err := s.uninstall(r); err != nil {
			return fmt.Errorf("restoring containerd's set-up for %s: %w", r, err)
		}
	}
	return nil
}

func (s Setup) uninstall(registry string) error {
	if err := s.sweep(registry); err != nil {
		return err
	}
	current, exists, err := read(s.hosts(registry))
	if err != nil {
		return err
	}
	if isOurs(current) || !exists {
		if err := s.restore(registry); err != nil {
			return err
		}
	}
	// Crash before: a backup without use, which the next Uninstall drops.
	return s.drop(registry)
}

// State is how one registry is set up.
type State struct {
	Registry string
	Mode     Mode   // empty if its pulls do not go to a Pyrsia node
	Mirror   string // URL
}

var settings = regexp.MustCompile(`(?s)^# Mode: (\w+)\n.*\n\[host\."([^"]+)"\]`)

// Status tells for each registry whether its pulls go to a Pyrsia node.
func (s Setup) Status() ([]State, error) {
	var out []State
	for _, r := range s.Registries {
		if err := checkName(r); err != nil {
			return nil, err
		}
		current, _, err := read(s.hosts(r))
		if err != nil {
			return nil, fmt.Errorf("reading containerd's set-up for %s: %w", r, err)
		}
		state := State{Registry: r}
		if rest, ours := bytes.CutPrefix(current, []byte(header)); ours {
			if m := settings.FindSubmatch(rest); m != nil {
				state.Mode, state.Mirror = Mode(m[1]), string(m[2])
			}
		}
		out = append(out, state)
	}
	return out, nil
}

// read reads a file that may not be there.
func read(name string) (content []byte, exists bool, err error) {
	content, err = os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func isOurs(content []byte) bool { return bytes.HasPrefix(content, []byte(header)) }

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
