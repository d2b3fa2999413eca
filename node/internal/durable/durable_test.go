package durable

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// lay puts a file with a mode at a name.
func lay(t *testing.T, name string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func stat(t *testing.T, name string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// A replaced file keeps its mode: no more users may read a password than
// before.
func TestModeIsKept(t *testing.T) {
	for name, write := range map[string]func(string, []byte) error{"WriteFile": WriteFile, "WriteSecret": WriteSecret, "Replace": Replace} {
		for _, mode := range []fs.FileMode{0o600, 0o640, 0o644, 0o400} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "file")
				lay(t, file, mode)
				if err := write(file, []byte("new")); err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(file)
				content, _ := os.ReadFile(file)
				if err != nil || info.Mode() != mode || string(content) != "new" {
					t.Errorf("it is %v and says %q (%v), want %v", info.Mode(), content, err, mode)
				}
			})
		}
	}
}

func TestModeOfNewFiles(t *testing.T) {
	for mode, write := range map[fs.FileMode]func(string, []byte) error{0o644: WriteFile, 0o600: WriteSecret} {
		file := filepath.Join(t.TempDir(), "file")
		if err := write(file, nil); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != mode {
			t.Errorf("it is %v (%v), want %v", info.Mode(), err, mode)
		}
	}
}

func TestOwnerIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give a file to another user")
	}
	file := filepath.Join(t.TempDir(), "file")
	lay(t, file, 0o640)
	if err := os.Chown(file, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(file, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if s := stat(t, file); s.Uid != 1234 || s.Gid != 5678 || s.Mode&0o777 != 0o640 {
		t.Errorf("it belongs to %d:%d with mode %o, want 1234:5678 with 640", s.Uid, s.Gid, s.Mode&0o777)
	}
}

// notFiles are what may stand at a file's name, and what the refusal says.
var notFiles = map[string]struct {
	lay  func(name string) error
	says string
}{
	"dangling link": {func(name string) error { return os.Symlink("nowhere", name) }, "a link to nowhere, which is not there"},
	"FIFO":          {func(name string) error { return syscall.Mkfifo(name, 0o644) }, "a FIFO, not a file"},
	"folder":        {func(name string) error { return os.Mkdir(name, 0o755) }, "a folder, not a file"},
	"device":        {func(name string) error { return os.Symlink("/dev/null", name) }, "a device, not a file"},
	"socket": {func(name string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
		if err == nil {
			l.SetUnlinkOnClose(false)
			err = l.Close()
		}
		return err
	}, "a socket, not a file"},
}

// Anything that is not a file is refused without waiting, and stays as it is.
func TestWhatIsNoFileIsRefused(t *testing.T) {
	for name, tt := range notFiles {
		for does, do := range map[string]func(string) error{
			"read":  func(file string) error { _, _, err := ReadIfThere(file); return err },
			"key":   func(file string) error { _, err := Read(file); return err },
			"write": func(file string) error { return WriteFile(file, []byte("new")) },
		} {
			t.Run(does+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, "file")
				if err := tt.lay(file); err != nil {
					t.Fatal(err)
				}
				before, err := os.Lstat(file)
				if err != nil {
					t.Fatal(err)
				}
				err = do(file)
				if _, ok := errors.AsType[*NotAFileError](err); !ok || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("got %v, want %q", err, tt.says)
				}
				after, err := os.Lstat(file)
				if err != nil || !os.SameFile(before, after) {
					t.Errorf("it was changed: %v", err)
				}
				if left, _ := os.ReadDir(dir); len(left) != 1 {
					t.Errorf("files are left: %v", left)
				}
			})
		}
	}
}

// A link that leads to a file is read, and what takes its place may be read by
// the same users.
func TestLinkToAFile(t *testing.T) {
	dir := t.TempDir()
	lay(t, filepath.Join(dir, "real"), 0o600)
	file := filepath.Join(dir, "file")
	if err := os.Symlink("real", file); err != nil {
		t.Fatal(err)
	}
	if content, exists, err := ReadIfThere(file); string(content) != "old" || !exists || err != nil {
		t.Errorf("read %q, %t, %v", content, exists, err)
	}
	if err := WriteFile(file, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("it is %v, %v", info.Mode(), err)
	}
}

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if _, exists, err := ReadIfThere(file); exists || err != nil {
		t.Errorf("of no file: %t, %v", exists, err)
	}
	if _, err := Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no key: %v", err)
	}
	if err := os.WriteFile(file, make([]byte, maxForeign+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadIfThere(file); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("of a file without end: %v", err)
	}
}

func TestCreateSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := CreateSecret(file, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("it is %v, %v", info.Mode(), err)
	}
	if err := CreateSecret(file, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another key: %v", err)
	}
	if content, _ := os.ReadFile(file); string(content) != "secret" {
		t.Errorf("the key before is %q now", content)
	}
}
