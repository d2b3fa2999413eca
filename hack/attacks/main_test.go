// Package attacks attacks the product as SECURITY.md says an attacker may: each
// test is one attack from its first step to its end, on real processes or on a
// real cluster, and passes if the promise holds. `make test-attacks` runs them;
// their log is written to be read.
package attacks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

func TestMain(m *testing.M) {
	log.SetLogger(klog.Background()) // the API client's
	code := m.Run()
	if err := theCluster.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "ending the cluster:", err)
		code = 1
	}
	os.Exit(code)
}

// gate skips the test unless `make test-attacks` runs it.
func gate(t *testing.T) {
	t.Helper()
	if os.Getenv("PYRSIA_ATTACKS") != "1" {
		t.Skip("attacks real processes and a real cluster: run 'make test-attacks'")
	}
}

// missing ends a test that lacks a part: in CI it fails.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// network starts an upstream registry and a publisher, given these further
// arguments, as processes on loopback. PYRSIA_BINARY is the program that is
// attacked: an older release's shows what the attack did to it.
func network(t *testing.T, publisher ...string) *rig.Rig {
	t.Helper()
	gate(t)
	if os.Getenv("PYRSIA_BINARY") == "" {
		missing(t, "PYRSIA_BINARY does not name the program pyrsia: run 'make test-attacks'")
	}
	registry, err := rig.DockerRegistry()
	if err != nil {
		missing(t, "there is no docker-registry: "+err.Error())
	}
	r, err := rig.Start(t.Context(), t.TempDir(), registry, publisher...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// theCluster is shared by the attacks that need one: to start it takes a minute.
var theCluster clusterOnce

// clusterOnce starts at most one cluster.
type clusterOnce struct {
	once    sync.Once
	started bool       // there is something to end
	env     *steps.Env // set by once
	err     error      // set by once
}

// cluster gives a real cluster of one control plane and the workers w1 and w2,
// on which the operator runs and nothing is declared yet, and a registry on
// this machine that holds the demo's images. Attacks share it: each makes its
// own namespaces, and ends what it has made.
func cluster(t *testing.T) *steps.Env {
	t.Helper()
	gate(t)
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		missing(t, "the cluster is made of Linux namespaces, which needs root on Linux")
	}
	theCluster.once.Do(theCluster.start)
	if theCluster.err != nil {
		t.Fatal(theCluster.err)
	}
	return theCluster.env
}

func (c *clusterOnce) start() {
	root, err := filepath.Abs("../..")
	if err != nil {
		c.err = err
		return
	}
	c.env, c.started = &steps.Env{Out: os.Stdout, Root: root}, true
	for _, s := range steps.Install() {
		if c.err = s.Do(context.Background(), c.env); c.err != nil {
			return
		}
	}
}

// stop ends the cluster, if one was started.
func (c *clusterOnce) stop() error {
	if !c.started {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.env.Close(); err != nil {
		return err
	}
	return c.env.Quietly(ctx, "make", "--no-print-directory", "cluster-down")
}

// apply declares objects of YAML, as a user of the cluster does; as names the
// user, or is empty for the administrator. It returns what the API server said.
func apply(t *testing.T, w *steps.Env, as, yaml string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := []string{"kubectl", "apply", "-f", file}
	if as != "" {
		argv = append(argv, "--as", as)
	}
	out, err := w.Output(t.Context(), argv...)
	return strings.TrimSpace(out), err
}

// eventually calls check until it returns nil, at most for the limit.
func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %v", limit, err)
		}
	}
}
