package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// port is a mirror's port that is held by a frontend of its own.
func port(t *testing.T) (url, secretFile string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fe") // short, for the path of a Unix socket is
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	var out strings.Builder
	go func() {
		ended <- Main(ctx, []string{"frontend", "--listen", addr, "--dir", dir, "--succession", "1ms", "--drain", "1ms"}, &out, &out)
	}()
	t.Cleanup(func() {
		cancel()
		if status := <-ended; status != 0 {
			t.Errorf("the frontend ended with %d: %s", status, out.String())
		}
		_ = os.RemoveAll(dir)
	})
	return "http://" + addr, filepath.Join(dir, portproof.SecretFile)
}

func hostsTOML(t *testing.T, certsD, registry string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(certsD, registry, "hosts.toml"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

// Whoever has the port when containerd is told to ask it is everyone's registry:
// nothing is written unless that is the mirror.
func TestNothingIsWrittenUnlessThePortIsTheMirrors(t *testing.T) {
	_, secret := port(t)
	other, _ := port(t)
	foreign := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // "200 OK" to everything
	defer foreign.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	certs := filepath.Join(t.TempDir(), "certs.d")
	for name, args := range map[string][]string{
		"nothing there":       {"--mirror", "http://127.0.0.1:1"},
		"another program":     {"--mirror", foreign.URL},
		"one that is silent":  {"--mirror", "http://" + silent.Addr().String()},
		"another mirror":      {"--mirror", other, "--port-secret", secret},
		"without its secret":  {"--mirror", other, "--port-secret", filepath.Join(t.TempDir(), "none")},
		"no mirror's at all ": {"--mirror", foreign.URL, "--port-secret", secret},
	} {
		status, _, stderr := pyrsia(t, append([]string{"containerd", "install", "--certs-d", certs, "--wait", "100ms"}, args...)...)
		if status != control.ExitPortTaken || !strings.Contains(stderr, "Nothing was written") {
			t.Errorf("%s: status %d: %s", name, status, stderr)
		}
		if _, err := os.Stat(certs); err == nil {
			t.Fatalf("%s: something was written", name)
		}
	}
}

func TestContainerdSetUpByTheCommandLine(t *testing.T) {
	urlA, secretA := port(t)
	urlB, secretB := port(t)
	certs := t.TempDir()
	run := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		status, stdout, stderr := pyrsia(t, append([]string{"containerd", args[0], "--certs-d", certs}, args[1:]...)...)
		if status != want {
			t.Fatalf("%q: status %d, want %d: %s%s", args, status, want, stdout, stderr)
		}
		return stdout, stderr
	}
	run(0, "install", "--mirror", urlA, "--port-secret", secretA, "--registry", "a.test", "--registry", "b.test")
	first := hostsTOML(t, certs, "a.test")

	// Another owner is refused, and takes nothing back but its own.
	_, stderr := run(control.ExitRegistryTaken, "install", "--owner", "second", "--mirror", urlB, "--port-secret", secretB, "--registry", "a.test")
	if !strings.Contains(stderr, localOwner) || !strings.Contains(stderr, urlA) {
		t.Errorf("the refusal does not say who has it: %s", stderr)
	}
	_, stderr = run(0, "uninstall", "--owner", "second", "--registry", "a.test")
	if got := hostsTOML(t, certs, "a.test"); got != first || !strings.Contains(stderr, "stays with local") {
		t.Errorf("after another owner's uninstall: %s\n%s", got, stderr)
	}

	// The same owner's second install is all that it has from then on.
	stdout, _ := run(0, "install", "--mirror", urlB, "--port-secret", secretB, "--registry", "a.test")
	if !strings.Contains(stdout, "Restored b.test") || hostsTOML(t, certs, "b.test") != "" || !strings.Contains(hostsTOML(t, certs, "a.test"), urlB) {
		t.Errorf("after a second install: %s%s", stdout, hostsTOML(t, certs, "a.test"))
	}
	run(0, "uninstall", "--all")
	if left, err := os.ReadDir(certs); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	run(0, "install", "--no-port-check", "--mirror", "http://127.0.0.1:1")
	for _, name := range []string{"docker.io", "index.docker.io", "registry-1.docker.io"} {
		if got := hostsTOML(t, certs, name); !strings.Contains(got, "Strict") {
			t.Errorf("Docker Hub is not strict under the name %s: %s", name, got)
		}
	}
}

// A mirror whose data folder is gone has another secret when it is back.
func TestWaitForTheSecret(t *testing.T) {
	certs, secret := t.TempDir(), filepath.Join(t.TempDir(), "port.secret")
	start := time.Now()
	if status, _, stderr := pyrsia(t, "containerd", "install", "--certs-d", certs, "--port-secret", secret, "--wait", "300ms"); status != control.ExitPortTaken {
		t.Errorf("status %d: %s", status, stderr)
	}
	if waited := time.Since(start); waited < 300*time.Millisecond {
		t.Errorf("did not wait for the secret: %v", waited)
	}
}

// A node that owns its data folder may put a link in place of what root is to
// give to it: root does not follow it.
func TestInitDataFollowsNoLink(t *testing.T) {
	data, host := t.TempDir(), t.TempDir()
	owner := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	if err := os.Symlink(host, filepath.Join(data, "frontend")); err != nil {
		t.Fatal(err)
	}
	cmd := initDataCommand()
	cmd.SetArgs([]string{"--owner", owner, data, filepath.Join(data, "frontend")})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "is it a link") {
		t.Errorf("a link was followed: %v", err)
	}
	if err := os.Remove(filepath.Join(data, "frontend")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a folder is made, and given again
		if err := cmd.Execute(); err != nil {
			t.Error(err)
		}
	}
}
