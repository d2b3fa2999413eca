// Package s3test runs a real S3-compatible server for tests: Versity's S3
// gateway, whose objects are files.
package s3test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// Gateway is a server with the bucket "pyrsia".
type Gateway struct {
	Addr    string // HOST:PORT
	Dir     string // the bucket's objects, as files
	Secrets string // folder with its keys, as bucket.Config.SecretDir

	binary, root string
	cmd          *exec.Cmd
}

const (
	user   = "user"
	secret = "a-long-secret"
)

// Start starts a server with an empty bucket, which ends with the test.
func Start(t testing.TB) *Gateway {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{binary: os.Getenv("PYRSIA_S3_GATEWAY"), root: t.TempDir(), Secrets: t.TempDir(), Addr: addr}
	if g.binary == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("PYRSIA_S3_GATEWAY is not set")
		}
		t.Skip("PYRSIA_S3_GATEWAY is not set: `make test` builds one")
	}
	g.Dir = filepath.Join(g.root, "pyrsia")
	if err := os.Mkdir(g.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"access-key-id": user, "secret-access-key": secret} {
		if err := os.WriteFile(filepath.Join(g.Secrets, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(g.Stop)
	g.Restart(t)
	return g
}

// Restart starts a server that was stopped.
func (g *Gateway) Restart(t testing.TB) {
	t.Helper()
	g.cmd = exec.Command(g.binary, "--port", g.Addr, "--quiet", "posix", g.root)
	g.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+user, "ROOT_SECRET_KEY="+secret)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		conn, err := net.Dial("tcp", g.Addr)
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the S3 gateway does not answer")
}

// Stop kills the server.
func (g *Gateway) Stop() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
		g.cmd = nil
	}
}
