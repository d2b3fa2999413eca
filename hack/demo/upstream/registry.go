// Package upstream is the registry that the demo publishes from: Debian's
// docker-registry as a real process, and the images that are pushed to it.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Config is the registry's configuration, for a folder and an address.
const Config = `version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
`

// Registry is a running docker-registry.
type Registry struct {
	// Addr is the host and port it listens on.
	Addr string

	cmd   *exec.Cmd
	stdin io.Closer
}

// Start runs the docker-registry at binary with its files under dir, and
// returns when it answers.
func Start(ctx context.Context, binary, dir, addr string) (*Registry, error) {
	file := filepath.Join(dir, "config.yml")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, Config, filepath.Join(dir, "data"), addr), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The shell ends the registry when its input ends, so that none is left
	// behind however this program dies.
	cmd := exec.Command("sh", "-c", `"$0" serve "$1" & read -r _; kill $!; wait $!`, binary, file)
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	r := &Registry{Addr: addr, cmd: cmd, stdin: stdin}
	if err := r.awaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("docker-registry on %s, see %s: %w", addr, log.Name(), err), r.Stop())
	}
	return r, nil
}

func (r *Registry) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (r *Registry) ping(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /v2/: %s", resp.Status)
	}
	return nil
}

// PID is the process whose child is the registry.
func (r *Registry) PID() int { return r.cmd.Process.Pid }

// Stop ends the registry. Its files stay.
func (r *Registry) Stop() error {
	if r.stdin.Close() != nil {
		return nil // stopped before
	}
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("stopping docker-registry: %w", err)
	}
	return nil
}
