package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const header = "# Written by Pyrsia. 'pyrsia containerd uninstall' restores what was here before.\n"

// maxOwner bounds an owner's name: NAMESPACE/NAME/UID at its longest.
const maxOwner = 400

// OwnedError says that another mirror has set a registry up on this machine.
type OwnedError struct {
	Registry, File string
	Owner          string // empty if a release that did not record one wrote the file
	Mirror         string // URL
}

func (e *OwnedError) Error() string {
	owner := e.Owner
	if owner == "" {
		owner = "an owner that is not recorded"
	}
	return fmt.Sprintf("pulls of %s on this machine go to the mirror of %s at %s already (%s), and nothing was changed: take %[1]s out of this mirror's registries, keep it off this machine, or remove the other mirror",
		e.Registry, owner, e.Mirror, e.File)
}

// RefusedError says what is on the machine that a set-up could not keep as it is,
// and what to do.
type RefusedError struct{ why string }

func (e *RefusedError) Error() string { return e.why }

func refused(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

// hosts is what a hosts.toml of ours says.
type hosts struct {
	mode   Mode
	owner  string // empty in one that v0.1.0 wrote
	mirror string // URL
	below  string // the folder whose hosts of the user's are in it too, or empty
}

var (
	modeLine  = regexp.MustCompile(`(?m)^# Mode: (\w+)$`)
	ownerLine = regexp.MustCompile(`(?m)^# Owner: (.+)$`)
	belowLine = regexp.MustCompile(`(?m)^# Below: (.+)$`)
	hostLine  = regexp.MustCompile(`(?m)^\[host\."([^"]+)"\]$`)
)

// parse tells whether content is ours, and what it says.
func parse(content []byte) (h hosts, ours bool) {
	rest, ours := bytes.CutPrefix(content, []byte(header))
	if !ours {
		return h, false
	}
	first := func(line *regexp.Regexp) string {
		if m := line.FindSubmatch(rest); m != nil {
			return string(m[1])
		}
		return ""
	}
	return hosts{Mode(first(modeLine)), first(ownerLine), first(hostLine), first(belowLine)}, true
}

// owns tells whether s may change or restore a file of ours. What has no owner
// is v0.1.0's: it belongs to the mirror whose URL it names. mirror is empty for
// an Uninstall that takes back whatever has no owner.
func (s Setup) owns(h hosts, mirror string) bool {
	if h.owner == "" {
		return mirror == "" || h.mirror == mirror
	}
	return h.owner == s.Owner
}

// inherits tells whether an Install of s may also take over what a deleted
// mirror of the same namespace and name left behind (an owner is
// NAMESPACE/NAME/UID, and a name is used once at a time). An Uninstall may not:
// that of the predecessor could come late and disarm its successor.
func (s Setup) inherits(h hosts, mirror string) bool {
	if s.owns(h, mirror) {
		return true
	}
	namespace, rest, ok1 := strings.Cut(s.Owner, "/")
	name, _, ok2 := strings.Cut(rest, "/")
	return ok1 && ok2 && strings.HasPrefix(h.owner, namespace+"/"+name+"/")
}

func checkOwner(owner string) error {
	if owner == "" || len(owner) > maxOwner || strings.ContainsFunc(owner, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("owner %q: want one line of 1 to %d bytes", owner, maxOwner)
	}
	return nil
}

const (
	// claimFile in a registry's backup is the hosts.toml of a mirror of the same
	// team that waits for the registry: its owner hands over to that mirror when
	// it goes, so that pulls never go around both.
	claimFile = "claim.toml"
	// claimAge is how long a claim counts: the waiting mirror renews it at each
	// attempt, which are at most 5 minutes apart for a container that keeps
	// failing.
	claimAge = 15 * time.Minute
)

func (s Setup) claim(folder string) string { return filepath.Join(s.backup(folder), claimFile) }

// claimant reads the claim of another mirror that waits for a folder.
func (s Setup) claimant(folder string) (content []byte, waits bool, err error) {
	info, err := os.Stat(s.claim(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil || time.Since(info.ModTime()) > claimAge {
		return nil, false, err
	}
	content, _, err = read(s.claim(folder))
	h, ours := parse(content)
	return content, err == nil && ours && h.owner != s.Owner && sameTeam(h.owner, s.Owner), err
}

// sameTeam tells whether one owner may hand over to another: within a namespace,
// or on a machine without Kubernetes. What another team has waited for must not
// be in its hands the moment that a mirror is replaced.
func sameTeam(a, b string) bool {
	teamA, _, ok1 := strings.Cut(a, "/")
	teamB, _, ok2 := strings.Cut(b, "/")
	return a != "" && b != "" && ok1 == ok2 && (!ok1 || teamA == teamB)
}

// putClaim notes that s waits for a folder that owner has. The first claim
// wins.
func (s Setup) putClaim(folder, owner string, content []byte) error {
	if _, waits, err := s.claimant(folder); err != nil || waits || !sameTeam(s.Owner, owner) {
		return err
	}
	if waits, err := s.waits(folder, claimAge/3); err != nil || waits {
		return err // a waiting mirror writes it again now and then
	}
	if err := os.MkdirAll(s.backup(folder), 0o755); err != nil {
		return err
	}
	// Crash before: no claim, or the one from the attempt before.
	return writeSecret(s.claim(folder), content)
}

// waits tells whether s has a claim to a folder that is younger than age.
func (s Setup) waits(folder string, age time.Duration) (bool, error) {
	info, err := os.Stat(s.claim(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || time.Since(info.ModTime()) > age {
		return false, err
	}
	content, _, err := read(s.claim(folder))
	h, ours := parse(content)
	return ours && h.owner == s.Owner, err
}

// Waits tells whether s was refused a registry a while ago, and waits for it.
func (s Setup) Waits() (bool, error) {
	for _, f := range folders(s.Registries) {
		if waits, err := s.waits(f.name, claimAge); err != nil || waits {
			return waits, err
		}
	}
	return false, nil
}

// dropClaims removes the claims of s, because it has the folders now or does
// not want them any longer.
func (s Setup) dropClaims() error {
	taken, err := s.kept()
	if err != nil {
		return err
	}
	for _, folder := range taken {
		content, _, err := read(s.claim(folder))
		if err != nil {
			return err
		}
		if h, ours := parse(content); ours && h.owner == s.Owner {
			if err := removeFile(s.claim(folder)); err != nil {
				return err
			}
		}
	}
	return nil
}
