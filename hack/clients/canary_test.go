package clients

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// A real containerd gets the canary where its certs.d leads to the mirror, also
// where the mirror itself does not run, and nowhere else. That it has asked is
// proven from then on.
func TestCanary(t *testing.T) {
	w := findPrograms(t)
	pyrsia := filepath.Join(t.TempDir(), "pyrsia")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", pyrsia, "../../cmd/pyrsia").CombinedOutput(); err != nil {
		t.Fatalf("building pyrsia: %v: %s", err, out)
	}
	// No registry is there: no name is known but this machine's own.
	dir := t.TempDir()
	w.hub = &hub{hosts: filepath.Join(dir, "hosts"), roots: filepath.Join(dir, "roots.pem")}
	if err := errors.Join(os.WriteFile(w.hub.hosts, []byte("127.0.0.1 localhost\n"), 0o644), os.WriteFile(w.hub.roots, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, programs := range map[string]string{"containerd 1.6": w.programs, "containerd 2.4": w.newer} {
		for _, mode := range []string{"Strict", "Fallback"} {
			t.Run(name+", "+mode, func(t *testing.T) {
				const mirror = "0b9c5c1e-5d0f-4b0c-9f5b-1f6f3d1f2a3b"
				addr := frontend(t, pyrsia, mirror)
				proof := func() int {
					resp, err := http.Get("http://" + addr + "/.well-known/pyrsia-canary/" + mirror)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					_, _ = io.Copy(io.Discard, resp.Body)
					return resp.StatusCode
				}
				dir := shortDir(t)
				certs := filepath.Join(dir, "certs.d")
				ctr := w.startContainerd(t, dir, programs, "")
				pull := func(image string) (string, error) {
					return ctr(t.Context(), "images", "pull", "--hosts-dir", certs, "--snapshotter", "native", "--platform", "linux/amd64", image)
				}
				install := func(registry string) {
					t.Helper()
					if out, err := exec.CommandContext(t.Context(), pyrsia, "containerd", "install", "--no-port-check", "--certs-d", certs,
						"--mirror", "http://"+addr, "--mode", mode, "--registry", registry).CombinedOutput(); err != nil {
						t.Fatalf("pyrsia containerd install: %v: %s", err, out)
					}
				}
				install("docker.io")
				if out, err := pull(canary.Image(mirror)); err == nil || proof() != http.StatusServiceUnavailable {
					t.Errorf("without its folder in certs.d: %v, the proof is %d: %s", err, proof(), out)
				}
				install(canary.Registry(mirror))
				if out, err := pull(canary.Image(mirror)); err != nil || proof() != http.StatusOK {
					t.Errorf("with its folder: %v, the proof is %d: %s", err, proof(), out)
				}
				other := strings.Replace(mirror, "0", "1", 1)
				if out, err := pull(canary.Image(other)); err == nil {
					t.Errorf("another mirror's canary: %s", out)
				}
			})
		}
	}
}

// frontend runs one for a mirror that does not run.
func frontend(t *testing.T, pyrsia, mirror string) (addr string) {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(pyrsia, "frontend", "--listen", addr, "--dir", shortDir(t), "--wait", "1s", "--succession", "1ms", "--drain", "1ms", "--canary", mirror)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		resp, err := http.Get("http://" + addr + "/.well-known/pyrsia-canary/" + mirror)
		if err == nil {
			_ = resp.Body.Close()
			return addr
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
