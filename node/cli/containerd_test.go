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
	"sync"
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

// The process that has the port when containerd is configured becomes the
// registry of the machine: nothing is written unless that is the mirror.
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
		if status != control.ExitPortTaken || !strings.Contains(stderr, "Nothing was set up") {
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

// frontendAt runs the frontend of a mirror in a folder, until it is stopped.
func frontendAt(t *testing.T, addr, dir string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var out strings.Builder
		Main(ctx, []string{"frontend", "--listen", addr, "--dir", dir, "--succession", "1ms", "--drain", "1ms"}, &out, &out)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

// A machine starts anew, and another process has the mirror's port first: what
// sends pulls there is closed before the mirror starts, and set up again only
// when the port is the mirror's.
func TestSetUpIsClosedWhileAnotherHasThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, certs := l.Addr().String(), t.TempDir()
	_ = l.Close()
	dir, err := os.MkdirTemp("", "fe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(command string, more ...string) (int, string) {
		args := []string{"containerd", command, "--certs-d", certs, "--owner", "images/mirror/1", "--mirror", "http://" + addr,
			"--port-secret", filepath.Join(dir, portproof.SecretFile), "--port-socket", filepath.Join(dir, portproof.SocketFile)}
		status, _, stderr := pyrsia(t, append(args, more...)...)
		return status, stderr
	}
	if err := os.MkdirAll(filepath.Join(certs, "docker.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "docker.io", "hosts.toml"), []byte("server = \"https://own.test\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := frontendAt(t, addr, dir)
	if status, stderr := at("install", "--wait", "20s"); status != 0 {
		t.Fatal(stderr)
	}
	armed := hostsTOML(t, certs, "docker.io")
	stop()

	// Nothing listens: containerd gets nothing there, and nothing has to be put back.
	if status, stderr := at("guard", "--wait", "300ms"); status != 0 || hostsTOML(t, certs, "docker.io") != armed {
		t.Errorf("nobody has the port: status %d: %s\n%s", status, stderr, hostsTOML(t, certs, "docker.io"))
	}
	for name, handler := range map[string]http.HandlerFunc{
		"says yes": func(http.ResponseWriter, *http.Request) {},
		"says that nobody is there": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Pyrsia-Nobody-Listens", "true")
			w.WriteHeader(502)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			foreign := &http.Server{Handler: handler}
			go func() { _ = foreign.Serve(l) }()
			stop := frontendAt(t, addr, dir)
			if status, stderr := at("guard", "--wait", "1s"); status != 0 || !strings.Contains(stderr, "Closed docker.io") {
				t.Errorf("status %d: %s", status, stderr)
			}
			if got := hostsTOML(t, certs, "docker.io"); strings.Contains(got, addr) || strings.Contains(got, "own.test") {
				t.Errorf("containerd asks the foreign process, or the registry itself: %s", got)
			}
			if status, stderr := at("install", "--wait", "300ms"); status != control.ExitPortTaken || hostsTOML(t, certs, "docker.io") == armed {
				t.Errorf("it is set up although another process has the port: status %d: %s", status, stderr)
			}
			_ = foreign.Close() // the frontend waits for its port
			if status, stderr := at("install", "--wait", "20s"); status != 0 || hostsTOML(t, certs, "docker.io") != armed {
				t.Errorf("it is not set up again: status %d: %s\n%s", status, stderr, hostsTOML(t, certs, "docker.io"))
			}
			stop()
		})
	}
}

// A refused set-up that waits gets the registries as soon as the other mirror
// goes; the first refusal is reported immediately.
func TestSetUpWaitsForAHandOver(t *testing.T) {
	urlA, secretA := port(t)
	urlB, secretB := port(t)
	certs := t.TempDir()
	install := func(owner, url, secret string) (int, string) {
		status, _, stderr := pyrsia(t, "containerd", "install", "--certs-d", certs, "--owner", owner, "--mirror", url, "--port-secret", secret, "--hand-over", "1m")
		return status, stderr
	}
	if status, stderr := install("images/a/1", urlA, secretA); status != 0 {
		t.Fatal(stderr)
	}
	for _, other := range []string{"images/b/2", "mallory/c/3", "mallory/c/3"} { // another team has nothing to wait for
		if status, stderr := install(other, urlB, secretB); status != control.ExitRegistryTaken || strings.Contains(stderr, "Waiting") {
			t.Errorf("the first attempt of %s: status %d: %s", other, status, stderr)
		}
	}
	ended := make(chan error, 1)
	go func() {
		status, stderr := install("images/b/2", urlB, secretB)
		if status != 0 || !strings.Contains(stderr, "Waiting up to 1m0s for a hand-over: pulls of docker.io") {
			ended <- fmt.Errorf("the second attempt: status %d: %s", status, stderr)
		}
		close(ended)
	}()
	select {
	case err := <-ended:
		t.Fatalf("it does not wait: %v", err)
	case <-time.After(time.Second):
	}
	if status, _, stderr := pyrsia(t, "containerd", "uninstall", "--certs-d", certs, "--owner", "images/a/1", "--all"); status != 0 {
		t.Fatal(stderr)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := hostsTOML(t, certs, "docker.io"); !strings.Contains(got, urlB) {
		t.Errorf("after the hand-over: %s", got)
	}
}

// One owner, two registries, and a second install at another port for one of
// them: nothing goes on to the first port, and an uninstall without a list leaves
// nothing behind.
func TestUninstallIsOfAllThatTheOwnerHas(t *testing.T) {
	urlA, secretA := port(t)
	urlB, secretB := port(t)
	certs := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := pyrsia(t, append([]string{"containerd", args[0], "--certs-d", certs}, args[1:]...)...)
		if status != 0 {
			t.Fatalf("%q: status %d: %s%s", args, status, stdout, stderr)
		}
		return stderr
	}
	run("install", "--mirror", urlA, "--port-secret", secretA, "--registry", "a.test", "--registry", "b.test")
	run("install", "--mirror", urlB, "--port-secret", secretB, "--registry", "a.test")
	run("uninstall", "--registry", "a.test")
	if got := hostsTOML(t, certs, "b.test"); got != "" {
		t.Errorf("b.test goes on to a port that is not the node's any more: %s", got)
	}

	run("install", "--owner", "other", "--mirror", urlA, "--port-secret", secretA, "--registry", "c.test")
	run("install", "--mirror", urlB, "--port-secret", secretB, "--registry", "a.test", "--registry", "b.test")
	if stderr := run("uninstall", "--registry", "a.test"); !strings.Contains(stderr, "b.test, b.test:443, b.test_443_ stays with local at "+urlB+": --registry does not name it") {
		t.Errorf("what stays is not told: %s", stderr)
	}
	if stderr := run("uninstall"); !strings.Contains(stderr, "c.test, c.test:443, c.test_443_ stays with other at "+urlA+": it is not the set-up of local") {
		t.Errorf("what stays is not told: %s", stderr)
	}
	if hostsTOML(t, certs, "b.test") != "" || hostsTOML(t, certs, "c.test") == "" {
		t.Error("uninstall without a list took another owner's, or left its own")
	}
	if stderr := run("uninstall", "--owner", "other", "--all", "--registry", "a.test"); stderr != "" {
		t.Error(stderr)
	}
	if left, err := os.ReadDir(certs); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A distribution stands for its folders; where no mirror can write, nothing is
// written, and the message says what to use instead.
func TestDistributionPicksTheFolder(t *testing.T) {
	certs := filepath.Join(t.TempDir(), "certs.d")
	status, _, stderr := pyrsia(t, "containerd", "install", "--no-port-check", "--distribution", "k3s", "--certs-d", certs, "--mirror", "http://127.0.0.1:1")
	if status != 0 || !strings.Contains(stderr, "registries.yaml") || hostsTOML(t, certs, "docker.io") == "" {
		t.Errorf("k3s: status %d: %s", status, stderr)
	}
	if status, stdout, _ := pyrsia(t, "containerd", "status", "--distribution", "k0s", "--registry", "none.test"); status != 0 || !strings.Contains(stdout, "none.test") {
		t.Errorf("k0s: status %d: %s", status, stdout)
	}
	for name, want := range map[string]string{"talos": "skipFallback", "none": "none of the known distributions"} {
		if status, _, stderr := pyrsia(t, "containerd", "install", "--no-port-check", "--distribution", name); status == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d: %s", name, status, stderr)
		}
	}
}

// What cannot be kept has an exit status of its own, by which the operator knows it.
func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	certs := t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, "_default"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "_default", "hosts.toml"), []byte("server = https://x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := pyrsia(t, "containerd", "install", "--no-port-check", "--mode", "Fallback", "--certs-d", certs)
	if status != control.ExitSetUpRefused || !strings.Contains(stderr, filepath.Join(certs, "_default", "hosts.toml")+" cannot be kept below the mirror") {
		t.Errorf("status %d: %s", status, stderr)
	}
}
