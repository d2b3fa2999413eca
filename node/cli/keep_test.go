package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// output is what a command says while it runs.
type output struct {
	mu  sync.Mutex // guards buf
	buf strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// keep runs the keeper of a set-up until it ends by itself or the test does.
func keep(t *testing.T, args ...string) (ended <-chan int, said *output) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	said = new(output)
	status, done := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(done)
		status <- Main(ctx, append([]string{"containerd", "keep", "--every", "20ms"}, args...), said, said)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return status, said
}

// eventuallySays waits for a text in a file or elsewhere.
func eventuallySays(t *testing.T, what, want string, read func() string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); read() != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is still:\n%s\nwant:\n%s", what, read(), want)
		}
	}
}

// A changed set-up is restored a moment later; what is not the mirror's stays as
// it is.
func TestKeepWritesAgain(t *testing.T) {
	url, secret := port(t)
	certs := t.TempDir()
	args := []string{"--certs-d", certs, "--owner", "images/a/1", "--mirror", url, "--port-secret", secret, "--registry", "docker.io", "--registry", "reg.test:5000"}
	if status, _, stderr := pyrsia(t, append([]string{"containerd", "install"}, args...)...); status != 0 {
		t.Fatal(stderr)
	}
	folders := []string{"docker.io", "registry-1.docker.io", "reg.test_5000_", "reg.test:5000"}
	want := map[string]string{}
	for _, f := range folders {
		want[f] = hostsTOML(t, certs, f)
	}
	own := filepath.Join(certs, "own.test", "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, []byte("server = \"https://own.test\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ended, _ := keep(t, args...)
	for name, change := range map[string]func(file string) error{
		"overwritten": func(file string) error { return os.WriteFile(file, []byte("server = \"https://x\"\n"), 0o644) },
		"one letter": func(file string) error {
			return os.WriteFile(file, []byte(strings.Replace(want[filepath.Base(filepath.Dir(file))], "Strict", "strict", 1)), 0o644)
		},
		"removed":          os.Remove,
		"with its folder":  func(file string) error { return os.Rename(filepath.Dir(file), filepath.Join(t.TempDir(), "away")) },
		"with all that is": func(string) error { return wipe(t, certs, "own.test") },
	} {
		for _, f := range folders {
			if err := change(filepath.Join(certs, f, "hosts.toml")); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, f := range folders {
				eventuallySays(t, name+": "+f, want[f], func() string { return hostsTOML(t, certs, f) })
			}
		}
	}
	if got, err := os.ReadFile(own); err != nil || string(got) != "server = \"https://own.test\"\n" {
		t.Errorf("another registry's file is %q, %v", got, err)
	}
	select {
	case status := <-ended:
		t.Errorf("the keeper has ended with %d", status)
	default:
	}
}

// What the user had set up is asked after the mirror, and comes back at the end,
// whatever is removed while the keeper runs: also what install has put aside.
func TestKeepKeepsWhatTheUserHad(t *testing.T) {
	url, secret := port(t)
	certs := filepath.Join(t.TempDir(), "certs.d")
	own, link := filepath.Join(certs, "docker.io", "hosts.toml"), filepath.Join(certs, "index.docker.io", "hosts.toml")
	const content = "server = \"https://own.test\"\n"
	written := time.Now().Add(-time.Hour).Truncate(time.Second)
	elsewhere := filepath.Join(t.TempDir(), "own.toml")
	for _, f := range []string{own, link} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(own, []byte(content), 0o640), os.Chtimes(own, written, written), os.WriteFile(elsewhere, []byte(content), 0o644), os.Symlink(elsewhere, link)); err != nil {
		t.Fatal(err)
	}
	args := []string{"--certs-d", certs, "--owner", "images/a/1", "--mirror", url, "--port-secret", secret, "--mode", "Fallback"}
	if status, _, stderr := pyrsia(t, append([]string{"containerd", "install"}, args...)...); status != 0 {
		t.Fatal(stderr)
	}
	t.Run("kept", func(t *testing.T) {
		keep(t, args...)
		for _, tc := range []struct {
			what   string
			remove func() error
		}{
			{"the file", func() error { return os.Remove(own) }}, // first: then the keeper has looked
			{"the folder", func() error { return os.Rename(filepath.Dir(own), filepath.Join(t.TempDir(), "away")) }},
			{"all but what is put aside", func() error { return wipe(t, certs, ".pyrsia-backup") }},
			{"all", func() error { return wipe(t, certs, "") }},
			{"certs.d", func() error { return os.Rename(certs, filepath.Join(t.TempDir(), "away")) }},
		} {
			if err := tc.remove(); err != nil {
				t.Fatalf("%s: %v", tc.what, err)
			}
			for _, folder := range []string{"docker.io", "index.docker.io"} {
				eventuallySays(t, tc.what+" was removed: "+folder, "the mirror, and what was there before", func() string {
					got := hostsTOML(t, certs, folder)
					if strings.Contains(got, url) && strings.Contains(got, "own.test") {
						return "the mirror, and what was there before"
					}
					return got
				})
			}
		}
	})
	if status, _, stderr := pyrsia(t, "containerd", "uninstall", "--certs-d", certs, "--owner", "images/a/1"); status != 0 {
		t.Fatal(stderr)
	}
	info, err := os.Stat(own)
	if err != nil {
		t.Fatal(err)
	}
	if got := hostsTOML(t, certs, "docker.io"); got != content || info.Mode().Perm() != 0o640 || !info.ModTime().Equal(written) {
		t.Errorf("back is %q, %s of %s; it was %q, %o of %s", got, info.Mode(), info.ModTime(), content, 0o640, written)
	}
	if to, err := os.Readlink(link); err != nil || to != elsewhere {
		t.Errorf("the link leads to %q, %v", to, err)
	}
}

// wipe removes all entries of a folder except one, without waiting: the keeper
// is at work.
func wipe(t *testing.T, dir, except string) error {
	entries, err := os.ReadDir(dir)
	away := t.TempDir()
	for _, e := range entries {
		if e.Name() != except && err == nil {
			err = os.Rename(filepath.Join(dir, e.Name()), filepath.Join(away, e.Name()))
		}
	}
	return err
}

// A registry that another owner has by now is refused, as at the set-up.
func TestKeepGivesWayToAnotherOwner(t *testing.T) {
	urlA, secretA := port(t)
	urlB, secretB := port(t)
	certs := t.TempDir()
	a := []string{"--certs-d", certs, "--owner", "images/a/1", "--mirror", urlA, "--port-secret", secretA}
	b := []string{"--certs-d", certs, "--owner", "mallory/b/2", "--mirror", urlB, "--port-secret", secretB}
	run := func(args ...string) {
		t.Helper()
		if status, _, stderr := pyrsia(t, append([]string{"containerd"}, args...)...); status != 0 {
			t.Fatal(stderr)
		}
	}
	run(append([]string{"uninstall", "--all"}, a[:4]...)...)
	run(append([]string{"install"}, b...)...)
	theirs := hostsTOML(t, certs, "docker.io")
	ended, said := keep(t, a...)
	if status := awaitEnd(t, ended); status != control.ExitRegistryTaken || !strings.Contains(said.String(), "mallory/b/2") {
		t.Errorf("status %d: %s", status, said)
	}
	if hostsTOML(t, certs, "docker.io") != theirs {
		t.Error("it took what is another owner's")
	}
}

// What was wiped is not written again for a process that has taken the port.
func TestKeepAsksWhoseThePortIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	foreign := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = foreign.Serve(l) }()
	defer foreign.Close()
	_, secret := port(t)
	certs := t.TempDir()
	ended, said := keep(t, "--certs-d", certs, "--mirror", "http://"+l.Addr().String(), "--port-secret", secret, "--wait", "100ms")
	if status := awaitEnd(t, ended); status != control.ExitPortTaken {
		t.Errorf("status %d: %s", status, said)
	}
	if got := hostsTOML(t, certs, "docker.io"); got != "" {
		t.Errorf("written: %s", got)
	}
}

// While the mirror's port is not held by anybody, the keeper waits.
func TestKeepWaitsForThePort(t *testing.T) {
	certs, dir := t.TempDir(), filepath.Join(t.TempDir(), portproof.SecretFile)
	ended, said := keep(t, "--certs-d", certs, "--mirror", "http://127.0.0.1:1", "--port-secret", dir, "--wait", "10ms")
	for end := time.Now().Add(time.Minute); strings.Count(said.String(), "Nothing was set up") < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it says: %s", said)
		}
	}
	select {
	case status := <-ended:
		t.Errorf("it has ended with %d: %s", status, said)
	default:
	}
}

func awaitEnd(t *testing.T, ended <-chan int) int {
	t.Helper()
	select {
	case status := <-ended:
		return status
	case <-time.After(time.Minute):
		t.Fatal("the keeper goes on")
		return 0
	}
}

const mountEnv = "PYRSIA_TEST_CERTS_D"

// In a pod certs.d is mounted. A folder that takes its place on the machine is not:
// the keeper ends, and its restart mounts that one.
func TestKeepEndsWhenItsFolderIsReplaced(t *testing.T) {
	if certs := os.Getenv(mountEnv); certs != "" {
		keepInAMount(t, certs)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("a mount takes root")
	}
	for name, replace := range map[string]string{"renamed": `mv "$1" "$1.old"`, "removed": `rm -r "$1"`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			host, certs := filepath.Join(dir, "host"), filepath.Join(dir, "certs.d")
			for _, d := range []string{host, certs} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			script := `mount --bind "$1" "$2" && shift 2 && exec "$@"`
			cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", script, "sh", host, certs, os.Args[0], "-test.run", "^"+t.Name()[:strings.Index(t.Name(), "/")]+"$")
			cmd.Env = append(os.Environ(), mountEnv+"="+certs, mountEnv+"_REPLACE="+fmt.Sprintf("set -- '%s'; %s", host, replace))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func keepInAMount(t *testing.T, certs string) {
	ended, said := keep(t, "--certs-d", certs, "--mirror", "http://127.0.0.1:1", "--wait", "10ms")
	time.Sleep(200 * time.Millisecond)
	select {
	case status := <-ended:
		t.Fatalf("it has ended with %d: %s", status, said)
	default:
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", os.Getenv(mountEnv+"_REPLACE")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status := awaitEnd(t, ended); status != 1 || !strings.Contains(said.String(), "another folder has taken the place") {
		t.Errorf("status %d: %s", status, said)
	}
}
