package replica

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// faultRole makes this test program run a part as a process of its own, for
// faults in its environment: a full disk, or system calls that fail.
const faultRole = "PYRSIA_TEST_FAULT_ROLE"

func init() {
	role := os.Getenv(faultRole)
	if role == "" {
		return
	}
	run := map[string]func(ctx context.Context, args []string) error{"sync": faultSync, "append": faultAppend}[role]
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// faultSync copies the ledger at URL with key VKEY to DIR, and reads it all.
func faultSync(ctx context.Context, args []string) error {
	f, err := OpenFollower(ctx, args[2], args[1], quiet())
	if err != nil {
		return err
	}
	if _, err := f.Sync(ctx, client.New(args[0], http.DefaultClient)); err != nil {
		return fmt.Errorf("with %d blocks: %w", f.Size(), err)
	}
	for h := range f.Size() {
		if _, _, err := f.Block(ctx, h); err != nil {
			return err
		}
	}
	fmt.Println(f.Size())
	return nil
}

// faultAppend appends N blocks to the ledger in DIR with the key in a file, one
// after the other, and prints each height.
func faultAppend(ctx context.Context, args []string) error {
	skey, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	w, err := OpenWriter(ctx, args[1], string(skey), quiet())
	if err != nil {
		return err
	}
	for range n {
		// Long names fill a small disk in a few appends.
		image := fmt.Sprintf("docker.io/library/%s:%d", strings.Repeat("long", 40), w.Size())
		a := artifact(image, "x")
		for len(a.Platforms) < ledger.MaxPlatforms {
			a.Platforms = append(a.Platforms, a.Platforms[0])
		}
		height, err := w.Append(ctx, a)
		if err != nil {
			return err
		}
		fmt.Println(height)
	}
	return w.Close()
}

// process runs this program in a role, perhaps under another.
func process(t *testing.T, role string, under []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	line := append(append(under, self), args...)
	cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
	cmd.Env = append(os.Environ(), faultRole+"="+role)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// smallDisk mounts a file system of a few KiB.
func smallDisk(t *testing.T, kib int) (dir string, enlarge func()) {
	t.Helper()
	if os.Getuid() != 0 {
		needs(t, "root, to mount a small file system")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		needs(t, fmt.Sprintf("to mount a small file system: %v", err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func() {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}
}

// needs skips a test for want of something that CI has.
func needs(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("this needs %s", what)
	}
	t.Skipf("this needs %s", what)
}

func TestMirrorOnAFullDisk(t *testing.T) {
	const n = 900
	p := newPublisher(t)
	p.publishMany(t, n)
	s := httptest.NewServer(p.Handler())
	t.Cleanup(s.Close)
	for _, kib := range []int{8, 200, 500} {
		t.Run(fmt.Sprint(kib, " KiB"), func(t *testing.T) {
			dir, enlarge := smallDisk(t, kib)
			for range 2 { // the second one finds what the first one left
				_, stderr, err := process(t, "sync", nil, s.URL, p.vkey, dir)
				if err == nil || !strings.Contains(stderr, "no space left on device") {
					t.Fatalf("a sync to a full disk: %v, %s", err, stderr)
				}
			}
			enlarge()
			if stdout, stderr, err := process(t, "sync", nil, s.URL, p.vkey, dir); err != nil || stdout != fmt.Sprintln(n) {
				t.Errorf("a sync when there is space: %q, %v, %s", stdout, err, stderr)
			}
		})
	}
}

func TestPublisherOnAFullDisk(t *testing.T) {
	dir, enlarge := smallDisk(t, 700)
	skey, vkey, err := ledger.GenerateKey("ledger.example/full")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(skey), 0o600); err != nil {
		t.Fatal(err)
	}
	first, stderr, err := process(t, "append", nil, key, dir, "1000")
	if err == nil {
		t.Fatal("1000 blocks fitted on a small disk")
	}
	t.Logf("after %d blocks: %v, %s", strings.Count(first, "\n"), err, stderr)
	enlarge()
	second, stderr, err := process(t, "append", nil, key, dir, "3")
	if err != nil {
		t.Fatalf("appending when there is space: %v, %s", err, stderr)
	}
	l, err := open(t.Context(), dir, vkey, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := map[string]bool{}
	for _, h := range strings.Fields(first + second) {
		height, err := strconv.ParseInt(h, 10, 64)
		if err != nil || seen[h] {
			t.Errorf("height %q was acknowledged twice, or is none: %v", h, err)
		}
		seen[h] = true
		if _, _, err := l.Block(t.Context(), height); err != nil {
			t.Errorf("block %d was acknowledged: %v", height, err)
		}
	}
}

// System calls that fail in a sync are errors that name the file; a sync
// without them goes on and ends well.
func TestMirrorWithFailingSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		needs(t, "strace")
	}
	const n = 900
	p := newPublisher(t)
	p.publishMany(t, n)
	s := httptest.NewServer(p.Handler())
	t.Cleanup(s.Close)
	for _, tc := range []struct {
		name, file, inject string
		second             bool   // in a second sync, which reads what the first one stored
		want               string // in the error; empty: it does not matter
	}{
		{"a tile cannot be made", "tile/entries/001", "openat:error=EIO", false, "001: input/output error"},
		{"a tile cannot be written", "tile/entries/001", "write:error=EIO", false, "001: input/output error"},
		{"a half of a tile is lost by the disk", "tile/entries/001", "write:retval=4096:when=1", false, "tile/entries/001 is corrupt"},
		{"a tile cannot be made durable", "tile/entries/003.p/132", "fsync:error=EIO", false, "input/output error"},
		{"the folder cannot be made durable", "tile/entries", "fsync:error=EIO", false, "input/output error"},
		{"a tile cannot be read", "tile/entries/000", "read:error=EIO", true, ""},
		{"a tile cannot be opened", "tile/entries/000", "openat:error=EIO", true, "000: input/output error"},
		{"an entry cannot be read", "tile/entries/000", "pread64:error=EIO", true, "tile/entries/000: input/output error"},
		{"the checkpoint cannot be read", "checkpoint", "read:error=EIO", true, "input/output error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.second {
				if _, stderr, err := process(t, "sync", nil, s.URL, p.vkey, dir); err != nil {
					t.Fatal(stderr)
				}
			}
			call, _, _ := strings.Cut(tc.inject, ":")
			under := []string{strace, "-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-e", "trace=" + call, "-e", "inject=" + tc.inject, "-P", filepath.Join(dir, tc.file)}
			stdout, stderr, err := process(t, "sync", under, s.URL, p.vkey, dir)
			t.Logf("%v: %s", err, strings.TrimSpace(stderr))
			switch {
			case tc.want == "" && err == nil:
				if stdout != fmt.Sprintln(n) {
					t.Errorf("%q blocks", stdout)
				}
			case tc.want == "" || err == nil || !strings.Contains(stderr, tc.want):
				t.Errorf("want an error with %q", tc.want)
			}
			if stdout, stderr, err := process(t, "sync", nil, s.URL, p.vkey, dir); err != nil || stdout != fmt.Sprintln(n) {
				t.Errorf("a sync without the fault: %q, %v, %s", stdout, err, stderr)
			}
		})
	}
}

// Whatever happens to a file of a node's ledger, it hands out nothing that is
// not the ledger's.
func TestDamagedFilesAreNotServed(t *testing.T) {
	p := newPublisher(t)
	p.publishMany(t, 600)
	mirror := newFollower(t, p.vkey)
	if _, err := mirror.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	get := func(l *Ledger, path string) (int, string) {
		w := httptest.NewRecorder()
		l.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+path, nil))
		data, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(data)
	}
	tiles := []string{"tile/entries/000", "tile/entries/002.p/88", "tile/entries/002.p/80", "tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2"}
	paths := append([]string{"api/v1/blocks/3", "api/v1/entries/0?n=10"}, tiles...)
	want := map[string]string{}
	for _, path := range paths {
		code, data := get(p.Ledger, path)
		if code != http.StatusOK {
			t.Fatalf("%s: %d", path, code)
		}
		want[path] = data
	}
	for who, l := range map[string]*Ledger{"publisher": p.Ledger, "mirror": mirror.Ledger} {
		for _, file := range tiles {
			name := filepath.Join(l.dir.path, file)
			whole, err := os.ReadFile(name)
			if err != nil {
				continue // a mirror has no block hashes
			}
			for damage, content := range map[string][]byte{
				"a bit": append(append(bytes.Clone(whole[:len(whole)/2]), whole[len(whole)/2]^1), whole[len(whole)/2+1:]...),
				"cut":   whole[:len(whole)/3], "empty": {}, "longer": append(bytes.Clone(whole), 0), "gone": nil,
			} {
				t.Run(fmt.Sprint(who, " ", file, " ", damage), func(t *testing.T) {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
					if content != nil {
						if err := os.WriteFile(name, content, 0o644); err != nil {
							t.Fatal(err)
						}
					}
					l.cache.tiles.Purge()
					l.entries.Purge()
					refused := 0
					for _, path := range paths {
						code, data := get(l, path)
						if code == http.StatusOK && data != want[path] {
							t.Errorf("%s: it serves what is not the ledger's", path)
						}
						if code != http.StatusOK {
							refused++
						}
					}
					t.Logf("%d of %d are refused", refused, len(paths))
					if err := os.WriteFile(name, whole, 0o644); err != nil {
						t.Fatal(err)
					}
					if code, data := get(l, file); code != http.StatusOK || data != want[file] {
						t.Errorf("%s when it is back: %d", file, code)
					}
				})
			}
		}
	}
}
