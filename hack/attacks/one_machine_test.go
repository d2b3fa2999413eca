package attacks

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Two mirrors and a foreign process on one machine, without Kubernetes.
func TestSecondMirrorOnOneMachine(t *testing.T) {
	gate(t)
	program := os.Getenv("PYRSIA_BINARY")
	if program == "" {
		missing(t, "PYRSIA_BINARY does not name the program pyrsia: run 'make test-attacks'")
	}
	certs := t.TempDir()
	help, _ := exec.CommandContext(t.Context(), program, "containerd", "install", "--help").CombinedOutput()
	owners := strings.Contains(string(help), "--owner") // v0.1.0 knows none
	pyrsia := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), program, append([]string{"containerd", args[0], "--certs-d", certs}, args[1:]...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	as := func(owner string, m mirrorPort, args ...string) []string {
		if owners {
			args = append(args, "--owner", owner)
			if args[0] == "install" {
				args = append(args, "--port-secret", m.secret, "--wait", "2s")
			}
		}
		return args
	}
	file := func(registry string) string {
		data, _ := os.ReadFile(filepath.Join(certs, registry, "hosts.toml"))
		return string(data)
	}
	a, b := holdPort(t, program), holdPort(t, program)

	t.Logf("mirror A, at %s, sets containerd up for docker.io, strictly", a.url)
	if out, err := pyrsia(as("a", a, "install", "--mirror", a.url)...); err != nil {
		t.Fatal(out)
	}
	first := file("docker.io")
	for _, alias := range []string{"registry-1.docker.io", "index.docker.io"} {
		if file(alias) == "" {
			t.Errorf("  a pull of %s/library/alpine goes to the registry itself", alias)
		}
	}
	t.Logf("mirror B, at %s, does the same", b.url)
	out, err := pyrsia(as("b", b, "install", "--mirror", b.url)...)
	t.Logf("  it is told: %s", out)
	if err == nil || file("docker.io") != first {
		t.Errorf("  IT HAS ALL PULLS NOW")
	}
	t.Log("mirror B goes, and its clean-up runs")
	if out, err := pyrsia(as("b", b, "uninstall")...); err != nil {
		t.Fatal(out)
	}
	if file("docker.io") != first {
		t.Errorf("  MIRROR A'S SET-UP IS GONE: containerd asks the registry itself")
	}

	t.Log("mirror A's machine starts anew, and a foreign process has its port first: it accepts, and answers 200 to whatever is asked")
	certs = t.TempDir()
	foreign := foreignProcess(t)
	out, err = pyrsia(as("a", a, "install", "--mirror", foreign)...)
	t.Logf("  the set-up says: %s", out)
	if err == nil || file("docker.io") != "" {
		t.Error("  THE FOREIGN PROCESS IS THE MACHINE'S REGISTRY NOW")
	}
}

// mirrorPort is a mirror's port on this machine, and the file by which the port
// proves whose it is.
type mirrorPort struct{ url, secret string }

// holdPort starts the process that holds a mirror's port.
func holdPort(t *testing.T, program string) mirrorPort {
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
	cmd := exec.Command(program, "frontend", "--listen", addr, "--dir", dir, "--succession", "1ms", "--drain", "1ms")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	eventually(t, 20*time.Second, func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return mirrorPort{"http://" + addr, filepath.Join(dir, "port.secret")}
}

// foreignProcess has a port, and answers 200 to whatever is asked.
func foreignProcess(t *testing.T) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	t.Cleanup(s.Close)
	return s.URL
}
