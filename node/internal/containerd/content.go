package containerd

import (
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// dialTimeout is how long containerd waits for a connection to the mirror: by
// default 30 s for each request where nothing answers. 2.0 and newer know the
// key, 1.6 and 1.7 take no notice of one that they do not know. 2.0 tries TLS
// once at a port with such a setting, and goes on without. (A capability
// that they do not know has them drop the whole file, and go around the
// mirror: so "referrers", of 2.2, is not asked for.)
const dialTimeout = "1s"

// file is the hosts.toml for a folder.
type file struct {
	folder
	content []byte
}

// files are those for all folders of the registries. A folder that is a link to
// another one of them has that one's.
func (s Setup) files(mirror string, mode Mode) (out []file, err error) {
	all := folders(s.Registries)
	for _, f := range all {
		if s.isLinkToOneOf(f, all) {
			continue
		}
		content, err := s.content(f, mirror, mode)
		if err != nil {
			return nil, fmt.Errorf("setting containerd up for %s: %w", f.registry, err)
		}
		out = append(out, file{f, content})
	}
	return out, nil
}

func (s Setup) isLinkToOneOf(f folder, all []folder) bool {
	if _, err := os.Readlink(s.dir(f.name)); err != nil {
		return false
	}
	to, err := filepath.EvalSymlinks(s.dir(f.name))
	return err == nil && slices.ContainsFunc(all, func(other folder) bool {
		at, err := filepath.EvalSymlinks(s.dir(other.name))
		_, link := os.Readlink(s.dir(other.name))
		return err == nil && link != nil && at == to
	})
}

func (s Setup) content(f folder, mirror string, mode Mode) ([]byte, error) {
	if mode == Strict {
		return s.strict(mirror), nil
	}
	return s.fallback(f, mirror)
}

func (s Setup) head(mode Mode) string {
	return fmt.Sprintf("%s# Mode: %s\n# Owner: %s\n", header, mode, s.Owner)
}

func host(mirror string) string {
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = %q\n", mirror, dialTimeout)
}

// strict names the mirror alone: containerd 1.6 knows strictness only when it is
// both the server and the host; 2.x takes it the same way.
func (s Setup) strict(mirror string) []byte {
	return fmt.Appendf(nil, "%sserver = %q\ndial_timeout = %q\n\n%s", s.head(Strict), mirror, dialTimeout, host(mirror))
}

// fallback names the mirror first, and then what containerd asked before.
func (s Setup) fallback(f folder, mirror string) ([]byte, error) {
	u, err := s.before(f)
	if err != nil {
		return nil, err
	}
	// containerd takes a relative path from the folder of the hosts.toml.
	move := func(p string) string {
		if u.folder == f.name || path.IsAbs(p) {
			return p
		}
		return path.Join("..", u.folder, p)
	}
	if len(u.hosts) == 0 {
		return fmt.Appendf(nil, "%s%s%s\n%s", s.head(Fallback), server(f.registry), u.certificates(move), host(mirror)), nil
	}
	below, err := putBelow(u.hosts, mirror, move)
	if err != nil {
		return nil, refused("%s cannot be kept below the mirror: %v: mend or remove it, or set %s up by --mode %s, which asks the mirror alone", s.hosts(u.folder), err, f.registry, Strict)
	}
	return fmt.Appendf(nil, "%s# Below: %s\n\n%s", s.head(Fallback), u.folder, below), nil
}

// server is the line that names a registry's own host, for users without a
// set-up of their own. For _default there is none, and for a registry on this
// machine containerd finds out by itself whether it speaks TLS.
func server(registry string) string {
	switch {
	case registry == defaultFolder || isLocalhost(registry):
		return ""
	case isDockerHub(registry):
		registry = "registry-1.docker.io"
	}
	return fmt.Sprintf("server = %q\n", "https://"+registry)
}

func isLocalhost(registry string) bool {
	host, _, err := net.SplitHostPort(registry)
	if err != nil {
		host = registry
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}
