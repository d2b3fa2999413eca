package controllers_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// The API server is gone for a minute: nodes go on, and the operator finishes
// its work when it is back.
func TestAPIServerIsDownForAMinute(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	must(t, c.startOperator())
	defer c.stop()
	ns := c.namespace(t)
	up := newUpstream(t)
	digest := up.push(t, "library/alpine:3.20")
	publisher := publisherNode(ns, up.URL)
	c.create(t, publisher)
	pod := c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	c.create(t, fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}))

	start := c.killAPIServer(t)
	// What is shown is that the node serves for all of a minute without an API server.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		resp, err := http.Get("http://" + pod.config.OpenAddr + "/readyz")
		if err != nil {
			t.Fatalf("the node is gone: %v", err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Fatalf("the node is not ready: %s", resp.Status)
		}
	}
	start()
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", digest)
	c.awaitCurrent(t, art)
	c.awaitCurrent(t, publisher)
}

// killAPIServer kills the API server; start starts one on the same data.
func (c *cluster) killAPIServer(t *testing.T) (start func()) {
	t.Helper()
	port := c.env.ControlPlane.APIServer.SecureServing.Port
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range all {
		data, err := os.ReadFile(file)
		args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if err != nil || !strings.HasSuffix(args[0], "kube-apiserver") || !strings.Contains(string(data), "--secure-port="+port+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		return func() {
			cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
			must(t, cmd.Start())
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			eventually(t, func() error { return c.List(t.Context(), new(corev1.NamespaceList)) })
		}
	}
	t.Fatalf("no API server at port %s", port)
	return nil
}
