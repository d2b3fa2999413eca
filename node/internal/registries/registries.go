// Package registries makes a node the registry mirror of the clients that read
// containers-registries.conf(5): podman, skopeo, buildah and CRI-O. It writes one
// drop-in of its own to registries.conf.d and checks whether another file makes them
// pull around the mirror. It may import durable, systemd and the ledger's names;
// node/cli calls it.
package registries

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/systemd"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Mode is what the clients do with what the node refuses.
type Mode string

const (
	// Strict leaves no way around the node: what it refuses is not pulled.
	Strict Mode = "Strict"
	// Fallback goes on to the registry itself, and to the mirrors that it had.
	Fallback Mode = "Fallback"
)

const (
	header = "# Written by Pyrsia. 'pyrsia registries uninstall' removes this file.\n"
	// dropInName comes after those of distributions and of most people: of equal
	// prefixes the last file's counts.
	dropInName   = "zz-pyrsia.conf"
	systemFolder = "/etc/containers"
	vendorFolder = "/usr/share/containers"
)

// Setup is the set-up of one folder's clients.
type Setup struct {
	// Folder is that of the drop-in: System or User.
	Folder string
	// System, Vendor and User are the folders that clients of this user read, and XDG
	// is what those since podman 6 take for User. Special are those drop-ins' folders
	// in System and Vendor that are for root alone, or for all others.
	System, Vendor, User, XDG string
	Special                   []string
	// Getenv is the environment of this process, Login a file with that of logins, and
	// Units are the folders of systemd's units. Each may be empty.
	Getenv     func(string) string
	Login      string
	Units      []string
	Registries []string
}

// Here is the set-up of this machine, or, for a user who is not root, of that
// user's clients alone.
func Here() Setup {
	s := Setup{System: systemFolder, Vendor: vendorFolder, User: systemFolder, Getenv: os.Getenv, Login: loginFile, Units: systemd.SystemUnits}
	if home := os.Getenv("HOME"); home != "" {
		s.User = filepath.Join(home, ".config", "containers")
	}
	s.XDG = s.User
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		s.XDG = filepath.Join(config, "containers")
	}
	s.Folder = s.User
	s.Special = []string{filepath.Join("registries.rootless.conf.d", strconv.Itoa(os.Geteuid())), "registries.rootless.conf.d"}
	if os.Geteuid() == 0 {
		s.Folder, s.Special = s.System, []string{"registries.rootful.conf.d"}
	} else {
		s.Units = systemd.UserUnits(filepath.Dir(s.XDG))
	}
	return s
}

func (s Setup) dropIn() string { return filepath.Join(s.Folder, dropInFolder, dropInName) }

// Install sends pulls of the registries to the mirror at the given URL, in place of
// what was installed before. If another file makes clients go around it, nothing is
// changed with Strict; with Fallback these files are returned.
func (s Setup) Install(mirror string, mode Mode) (around []error, err error) {
	if mode != Strict && mode != Fallback {
		return nil, fmt.Errorf("mode %q: want %s or %s", mode, Strict, Fallback)
	}
	if err := s.checkOurs(); err != nil {
		return nil, err
	}
	content, err := s.content(mirror, mode)
	if err != nil {
		return nil, err
	}
	if around, err = s.around(content); err != nil {
		return nil, err
	}
	if mode == Strict && len(around) > 0 {
		return nil, fmt.Errorf("nothing was changed: %w", errors.Join(around...))
	}
	if err := s.write(content); err != nil {
		return around, fmt.Errorf("setting up %s: %w", s.dropIn(), err)
	}
	return around, nil
}

// names are those of the registries, with the port that stands for none.
func (s Setup) names() (out []name, err error) {
	for _, r := range s.Registries {
		canonical, err := ledger.CanonicalRegistry(r)
		if err != nil {
			return nil, err
		}
		if strings.Contains(canonical, ":") || canonical == "localhost" {
			return nil, fmt.Errorf("%s: these clients cannot name a registry with a port at a mirror; give its name without one, if it has any", canonical)
		}
		for _, n := range ledger.RegistryNames(canonical) {
			out = append(out, name{n, canonical}, name{n + ":443", canonical})
		}
	}
	slices.SortFunc(out, func(a, b name) int { return strings.Compare(a.prefix, b.prefix) })
	return slices.Compact(out), nil
}

// name is one of a registry's.
type name struct{ prefix, canonical string }

// content is the drop-in. These clients do not say which registry they mean, so
// the mirror's location names it, except for Docker Hub, the mirror's default.
func (s Setup) content(mirror string, mode Mode) ([]byte, error) {
	u, err := url.Parse(mirror)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("mirror %q: want its URL", mirror)
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	before, err := s.loadAll([]byte{}, nil) // without ours
	if err != nil {
		return nil, err
	}
	created, err := s.created()
	if err != nil {
		return nil, err
	}
	out := fmt.Appendf(nil, "%s# Mode: %s\n# Mirror: %s\n", header, mode, mirror)
	if created != "" {
		out = fmt.Appendf(out, "# Made: %s\n", created)
	}
	for _, n := range names {
		location := u.Host
		if n.canonical != "docker.io" {
			location += "/" + n.canonical
		}
		r := registry{endpoint: endpoint{Location: n.prefix}, Blocked: true}
		if mode == Fallback {
			r = below(before, n.prefix)
		}
		r.Prefix, r.Mirrors = n.prefix, append([]endpoint{{Location: location, Insecure: u.Scheme == "http"}}, r.Mirrors...)
		out = append(out, r.String()...)
	}
	// Images can be named at the mirror too, which speaks no TLS. What is set up for
	// its name already stays.
	isSetUp := slices.ContainsFunc(before, func(c config) bool { _, ok := c.find(u.Host + "/x"); return ok })
	if u.Scheme == "http" && !isSetUp {
		out = append(out, registry{endpoint: endpoint{Location: u.Host, Insecure: true}, Prefix: u.Host}.String()...)
	}
	return out, nil
}

// below is what counted for a registry without the node, to be asked after it.
func below(before []config, prefix string) (r registry) {
	for _, c := range before {
		found, ok := c.find(prefix + "/x")
		if ok {
			r = found
			break
		}
	}
	if r.Location == "" { // of none, or of a wildcard
		r.Location = prefix
	}
	r.Mirrors = slices.Clone(r.Mirrors)
	for i := range r.Mirrors {
		if r.MirrorByDigestOnly { // it would be for the node too
			r.Mirrors[i].PullFromMirror = "digest-only"
		}
	}
	return r
}

// String is the registry as it stands in a file.
func (r registry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n[[registry]]\nprefix = %q\nlocation = %q\n", r.Prefix, r.Location)
	if r.Insecure {
		b.WriteString("insecure = true\n")
	}
	if r.Blocked {
		b.WriteString("blocked = true\n")
	}
	for _, m := range r.Mirrors {
		fmt.Fprintf(&b, "\n[[registry.mirror]]\nlocation = %q\n", m.Location)
		if m.Insecure {
			b.WriteString("insecure = true\n")
		}
		if m.PullFromMirror != "" {
			fmt.Fprintf(&b, "pull-from-mirror = %q\n", m.PullFromMirror)
		}
	}
	return b.String()
}

// Uninstall removes the drop-in, and the folders that were made for it.
func (s Setup) Uninstall() error {
	if err := s.checkOurs(); err != nil {
		return err
	}
	if err := s.remove(); err != nil {
		return fmt.Errorf("removing %s: %w", s.dropIn(), err)
	}
	return nil
}

// State is how one name of a registry is set up.
type State struct {
	Registry string
	Mode     Mode   // empty if its pulls do not go to a node
	Mirror   string // URL
}

// Status tells for each name of the registries, and of what else is set up, whether
// its pulls go to a node, and where they go around it.
func (s Setup) Status() (out []State, around []error, err error) {
	drop, exists, err := durable.ReadIfThere(s.dropIn())
	if err != nil {
		return nil, nil, err
	}
	mine := config{registries: map[string]registry{}, aliases: map[string]string{}}
	if exists && bytes.HasPrefix(drop, []byte(header)) {
		if err := mine.add(s.dropIn(), drop, true); err != nil {
			return nil, nil, fmt.Errorf("%s: %w: install again", s.dropIn(), err)
		}
	}
	installed := s
	// All but the mirror's own name have a mirror.
	installed.Registries = slices.DeleteFunc(mine.prefixes(), func(prefix string) bool { return len(mine.registries[prefix].Mirrors) == 0 })
	if len(installed.Registries) > 0 {
		if around, err = installed.around(nil); err != nil {
			return nil, nil, err
		}
	}
	names, err := s.names()
	if err != nil {
		return nil, nil, err
	}
	listed := installed.Registries
	for _, n := range names {
		listed = append(listed, n.prefix)
	}
	slices.Sort(listed)
	for _, prefix := range slices.Compact(listed) {
		state := State{Registry: prefix}
		if _, ok := mine.registries[prefix]; ok {
			state.Mode, state.Mirror = Mode(noted("Mode", drop)), noted("Mirror", drop)
		}
		out = append(out, state)
	}
	return out, around, nil
}

// noted is what a line of the drop-in's head says.
func noted(what string, drop []byte) string {
	m := regexp.MustCompile(`(?m)^# ` + what + `: (.+)$`).FindSubmatch(drop)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// checkOurs refuses to touch a file with the drop-in's name that is not ours.
func (s Setup) checkOurs() error {
	drop, exists, err := durable.ReadIfThere(s.dropIn())
	if err == nil && exists && !bytes.HasPrefix(drop, []byte(header)) {
		err = fmt.Errorf("%s was not written by Pyrsia, and stays as it is: rename it first", s.dropIn())
	}
	return err
}

// created is the topmost folder that the drop-in needs and that is not there, or
// was not when it was installed.
func (s Setup) created() (string, error) {
	drop, exists, err := durable.ReadIfThere(s.dropIn())
	if err != nil || exists {
		return noted("Made", drop), err
	}
	top := ""
	for dir := filepath.Dir(s.dropIn()); ; dir = filepath.Dir(dir) {
		_, err := os.Stat(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			return top, err
		}
		top = dir
	}
}

// write puts the drop-in into its folder, or the folder with it into its place.
func (s Setup) write(content []byte) error {
	top := cmp.Or(noted("Made", content), filepath.Dir(s.dropIn()))
	if err := s.sweep(top); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Dir(s.dropIn())); err == nil {
		return durable.WriteFile(s.dropIn(), content)
	}
	within, err := filepath.Rel(top, s.dropIn())
	if err != nil {
		return err
	}
	file := filepath.Join(beside(top, "new"), within)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(file, content); err != nil {
		return err
	}
	// Crash before: a folder beside, which the next run removes.
	return rename(beside(top, "new"), top)
}

func (s Setup) remove() error {
	top, err := s.created()
	if err != nil {
		return err
	}
	if err := s.sweep(cmp.Or(top, filepath.Dir(s.dropIn()))); err != nil {
		return err
	}
	if _, err := os.Lstat(s.dropIn()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if top != "" && holdsAlone(top, s.dropIn()) {
		// Crash after: a folder beside, which the next run removes.
		if err := rename(top, beside(top, "old")); err != nil {
			return err
		}
		return s.sweep(top)
	}
	if err := os.Remove(s.dropIn()); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(s.dropIn()))
}

// holdsAlone tells whether nothing else is below a folder than a file.
func holdsAlone(folder, file string) bool {
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			return false
		}
		if dir == folder {
			return true
		}
	}
}

func beside(folder, what string) string { return folder + ".pyrsia-" + what }

func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// sweep removes what a run that was killed has left beside a folder, and beside
// the drop-in.
func (s Setup) sweep(folder string) error {
	err := errors.Join(os.RemoveAll(beside(folder, "new")), os.RemoveAll(beside(folder, "old")))
	left, globErr := filepath.Glob(filepath.Join(filepath.Dir(s.dropIn()), ".new-*"))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	return errors.Join(err, globErr)
}
