package datafolder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestFolderIsClaimed(t *testing.T) {
	dir := t.TempDir()
	if owner, err := Owner(dir); owner != "" || err != nil {
		t.Errorf("nobody's folder is that of %q, %v", owner, err)
	}
	for range 2 {
		if err := Claim(dir, "a-b/c/1"); err != nil {
			t.Fatal(err)
		}
	}
	err := Claim(dir, "a/b-c/2")
	if owned, ok := errors.AsType[*OwnedError](err); !ok || owned.Owner != "a-b/c/1" || !strings.Contains(err.Error(), "belongs to the PyrsiaNode a-b/c (UID 1)") {
		t.Errorf("another namespace's mirror: %v", err)
	}
	if owner, err := Owner(dir); owner != "a-b/c/1" || err != nil {
		t.Errorf("after that it is that of %q, %v", owner, err)
	}
	if err := Claim(dir, "a-b/c/3"); err != nil { // made again
		t.Error(err)
	}
	if owner, err := Owner(dir); owner != "a-b/c/3" || err != nil {
		t.Errorf("of a mirror that was made again: %q, %v", owner, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Of two that come at the same moment one is refused.
func TestClaimsAtOnce(t *testing.T) {
	for range 50 {
		dir := t.TempDir()
		errs := make([]error, 4)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = Claim(dir, string(rune('a'+i))+"/mirror/1") })
		}
		all.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if _, ok := errors.AsType[*OwnedError](err); !ok {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Fatalf("%d of 4 mirrors have the folder", won)
		}
	}
}

// The folder's user can write what it likes: none of it is followed, waited for,
// or taken for a folder without an owner.
func TestOwnerThatIsNone(t *testing.T) {
	for name, lay := range map[string]func(string) error{
		"a link":   func(f string) error { return os.Symlink("/etc/hostname", f) },
		"a pipe":   func(f string) error { return syscall.Mkfifo(f, 0o600) },
		"a folder": func(f string) error { return os.Mkdir(f, 0o700) },
		"empty":    func(f string) error { return os.WriteFile(f, nil, 0o600) },
		"lines":    func(f string) error { return os.WriteFile(f, []byte("a/b/c\nd\n"), 0o600) },
		"large":    func(f string) error { return os.WriteFile(f, make([]byte, 1<<20), 0o600) },
	} {
		dir := t.TempDir()
		if err := lay(filepath.Join(dir, OwnerFile)); err != nil {
			t.Fatal(err)
		}
		if err := Claim(dir, "a/b/c"); err == nil {
			t.Errorf("%s counts as nobody's", name)
		}
	}
}
