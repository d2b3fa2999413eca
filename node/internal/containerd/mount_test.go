package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bind mounts a file or a folder at another place, for this test.
func bind(t *testing.T, from, to string) (unmount func()) {
	t.Helper()
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("a mount needs root: %v", err)
	}
	unmount = func() {
		if err := syscall.Unmount(to, 0); err != nil && err != syscall.EINVAL {
			t.Error(err)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// A hosts.toml that is mounted from elsewhere, or its folder, can be neither put
// aside nor replaced: it is refused before anything is written. Where something was
// mounted over ours, ours comes back when that is gone.
func TestMountedHosts(t *testing.T) {
	for name, folder := range map[string]bool{"the file": false, "its folder": true} {
		t.Run(name, func(t *testing.T) {
			root := lay(t, map[string]string{"quay.io/hosts.toml": "server = \"https://mine.test\"\n"})
			from, to := filepath.Join(t.TempDir(), "theirs"), filepath.Join(root, "quay.io")
			if folder {
				write(t, filepath.Join(from, hostsFile), "server = \"https://theirs.test\"\n")
			} else {
				to = filepath.Join(to, hostsFile)
				write(t, from, "server = \"https://theirs.test\"\n")
			}
			before := tree(t, root)
			s := setup(root, "a.test", "quay.io")
			unmount := bind(t, from, to)
			for _, mode := range []Mode{Strict, Fallback} {
				if _, err := s.Install(mirror, mode); err == nil || !strings.Contains(err.Error(), to+" is mounted from elsewhere") {
					t.Errorf("%s: %v", mode, err)
				}
			}
			if _, err := os.Stat(s.dir("a.test")); err == nil {
				t.Error("something was written")
			}
			if err := s.Uninstall(mirror); err != nil { // of which nothing is there
				t.Error(err)
			}
			unmount()
			install(t, s, mirror, Strict)
			unmount = bind(t, from, to)
			if err := s.Uninstall(mirror); err == nil || !strings.Contains(err.Error(), "is mounted from elsewhere") {
				t.Errorf("uninstall: %v", err)
			}
			if _, err := os.Stat(s.dir("a.test")); err == nil {
				t.Error("another registry was not restored")
			}
			unmount()
			if err := s.Uninstall(mirror); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, tree(t, root)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

// A hosts.toml in a folder on another file system cannot be put aside: the error
// comes before anything is written.
func TestFolderOnAnotherFileSystem(t *testing.T) {
	root := lay(t, before["nothing there"])
	other, err := os.MkdirTemp("/dev/shm", "pyrsia-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	var here, there syscall.Stat_t
	if syscall.Stat(root, &here) != nil || syscall.Stat(other, &there) != nil || here.Dev == there.Dev {
		t.Skip("/dev/shm is no other file system")
	}
	write(t, filepath.Join(other, hostsFile), "server = \"https://mine.test\"\n")
	if err := os.Symlink(other, filepath.Join(root, "quay.io")); err != nil {
		t.Fatal(err)
	}
	s := setup(root, "a.test", "quay.io")
	if _, err := s.Install(mirror, Strict); err == nil || !strings.Contains(err.Error(), "leads to another file system") {
		t.Errorf("install: %v", err)
	}
	if got := text(t, s.hosts("quay.io")); !strings.Contains(got, "mine.test") {
		t.Errorf("it was changed: %s", got)
	}
	if _, err := os.Stat(s.dir("a.test")); err == nil {
		t.Error("something was written")
	}
}
