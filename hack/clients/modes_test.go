package clients

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// As containerd's image verifier, pyrsia also stops what did not come from a
// mirror.
func TestImageVerifier(t *testing.T) {
	b := start(t)
	b.publish("published:1", image.OCI, 1, 1<<20)
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	dir := t.TempDir()
	t.Setenv("PYRSIA_IMAGE_VERIFIER", filepath.Join(dir, "config.json"))
	if out, err := exec.CommandContext(t.Context(), b.rig.Pyrsia, "image-verifier", "install", "--bin-dir", filepath.Join(dir, "bin"),
		"--node", "http://"+b.mirror.Open, "--ledger-key", b.rig.Key).CombinedOutput(); err != nil {
		t.Fatalf("pyrsia image-verifier install: %v: %s", err, out)
	}
	// A mirror that is not there: all comes from Docker Hub's stand-in.
	c := b.world.containerd(t, "containerd 2.4", b.world.newer, b.rig.Pyrsia, "127.0.0.1:1", "Fallback",
		fmt.Sprintf("[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n  bin_dir = %q\n", filepath.Join(dir, "bin")))
	if out, _, err := c.pull(t.Context(), "published:1"); err != nil {
		t.Errorf("published: %v: %s", err, out)
	}
	out, _, err := c.pull(t.Context(), "unpublished:1")
	if err == nil || !strings.Contains(out, "is not on the ledger") {
		t.Errorf("not published: %v: %s", err, out)
	}
}

// Strict leaves no way around the node although Docker Hub can be reached and
// has everything; Fallback goes on to it. Both in the old and the new containerd.
func TestModes(t *testing.T) {
	b := start(t)
	b.publish("published:1", image.OCI, 1, 1<<20)
	b.publish("later:1", image.OCI, 1, 1<<20)
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	programs := map[string]string{"containerd 1.6": b.world.programs, "containerd 2.4": b.world.newer}
	strict, fallback := map[string]client{}, map[string]client{}
	for name, program := range programs {
		strict[name] = b.world.containerd(t, name, program, b.rig.Pyrsia, b.wire.addr, "Strict", "")
		fallback[name] = b.world.containerd(t, name, program, b.rig.Pyrsia, b.wire.addr, "Fallback", "")
	}
	hub := &b.world.hub.requests
	for name, c := range strict {
		if got, err := b.pull(c, "published:1", 1); got != pulled {
			t.Errorf("%s, Strict, published: %s, %v", name, got, err)
		}
		if got, err := b.pull(c, "unpublished:1", 1); got != refusal(c) {
			t.Errorf("%s, Strict, not published: %s, %v", name, got, err)
		}
	}
	if n := hub.Load(); n != 0 {
		t.Errorf("Strict: %d requests went to Docker Hub", n)
	}
	for name, c := range fallback {
		if got, err := b.pull(c, "published:1", 1); got != pulled || hub.Load() != 0 {
			t.Errorf("%s, Fallback, published: %s, %v, %d requests to Docker Hub", name, got, err, hub.Load())
		}
		if _, _, err := c.pull(t.Context(), "unpublished:1"); err != nil || hub.Load() == 0 {
			t.Errorf("%s, Fallback, not published: %v, %d requests to Docker Hub", name, err, hub.Load())
		}
		hub.Store(0)
	}
	// Nor does Strict go there when the node is down.
	if err := b.mirror.Stop(); err != nil {
		t.Fatal(err)
	}
	for name, c := range strict {
		out, _, err := c.pull(t.Context(), "later:1")
		if err == nil || hub.Load() != 0 {
			t.Errorf("%s, Strict, node down: %v, %d requests to Docker Hub: %s", name, err, hub.Load(), strings.TrimSpace(out))
		}
	}
	for name, c := range fallback {
		if _, _, err := c.pull(t.Context(), "later:1"); err != nil || hub.Load() == 0 {
			t.Errorf("%s, Fallback, node down: %v, %d requests to Docker Hub", name, err, hub.Load())
		}
		hub.Store(0)
	}
}
