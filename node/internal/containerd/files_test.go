package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
)

// A hosts.toml may hold a password for a registry: its replacement can be read
// by the same users only, and keeps its owner.
func TestModeAndOwnerAreKept(t *testing.T) {
	s := setup(t.TempDir(), "quay.io")
	file := s.hosts("quay.io")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("server = \"https://quay.io\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	owner := uint32(os.Geteuid())
	if owner == 0 {
		owner = 1234
		if err := os.Chown(file, 1234, 1234); err != nil {
			t.Fatal(err)
		}
	}
	for _, do := range []func(){
		func() { install(t, s, mirror, Strict) },
		func() {
			if err := s.Uninstall(mirror); err != nil {
				t.Fatal(err)
			}
		},
	} {
		do()
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != 0o600 || uid != owner {
			t.Errorf("it is %v of user %d, want 0600 of %d", info.Mode(), uid, owner)
		}
	}
}

// Anything that is not a file is neither waited for nor replaced.
func TestNoFileIsRefused(t *testing.T) {
	for says, lay := range map[string]func(file string) error{
		"a link to": func(file string) error { return os.Symlink("/nowhere/hosts.toml", file) },
		"a FIFO":    func(file string) error { return syscall.Mkfifo(file, 0o644) },
	} {
		s := setup(t.TempDir(), "quay.io")
		file := s.hosts("quay.io")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := lay(file); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(file)
		if _, err := s.Install(mirror, Strict); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("install: %v, want %q", err, says)
		}
		if _, err := s.Status(); err == nil {
			t.Errorf("the status does not tell of %s", says)
		}
		if after, err := os.Lstat(file); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: it was changed: %v", says, err)
		}
	}
}

// A power cut after install or uninstall has returned undoes nothing of it.
func TestRenamesAreSynced(t *testing.T) {
	killpoint.Need(t)
	for _, had := range []string{"no certs.d", "own hosts.toml"} {
		certsD := lay(t, quay(before[had]))
		for _, what := range []string{"install", "uninstall"} {
			if left := killpoint.Unsynced(t, what, certsD, "images/a/1"); len(left) > 0 {
				t.Errorf("%s, %s: not synced: %v", had, what, left)
			}
		}
	}
}
