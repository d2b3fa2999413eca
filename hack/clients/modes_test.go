package clients

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// As containerd's image verifier, pyrsia also stops what did not come from a
// mirror.
func TestImageVerifier(t *testing.T) {
	b := start(t)
	b.publish("published:1", image.OCI, 1, 1<<20)
	b.publish("altered:1", image.OCI, 1, 1<<20)
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	b.revoke("revoked:1")
	dir := t.TempDir()
	t.Setenv("PYRSIA_IMAGE_VERIFIER", filepath.Join(dir, "config.json"))
	install := func(node string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), b.rig.Pyrsia, "image-verifier", "install", "--bin-dir", filepath.Join(dir, "bin"),
			"--node", node, "--ledger-key", b.rig.Key).CombinedOutput(); err != nil {
			t.Fatalf("pyrsia image-verifier install: %v: %s", err, out)
		}
	}
	install("http://" + b.mirror.Open)
	// A mirror that is not there: all comes from Docker Hub's stand-in.
	c := b.env.containerd(t, "containerd 2.4", b.env.newer, b.rig.Pyrsia, "127.0.0.1:1", "Fallback",
		fmt.Sprintf("[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n  bin_dir = %q\n", filepath.Join(dir, "bin")))
	if out, _, err := c.pull(t.Context(), "published:1"); err != nil {
		t.Errorf("published: %v: %s", err, out)
	}
	refused := func(what, image, want string) {
		t.Helper()
		if out, _, err := c.pull(t.Context(), image); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
	refused("not published", "unpublished:1", "the ledger does not record")
	refused("withdrawn", "revoked:1", "contains malware")
	install(altered(t, b.mirror.Open))
	refused("on an altered ledger", "altered:1", "inclusion proof")
}

// altered is a node whose ledger says of all images that they were published
// a thousand years before.
func altered(t *testing.T, node string) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: node})
	proxy.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		body = bytes.ReplaceAll(body, []byte(`\"time\":\"2`), []byte(`\"time\":\"1`))
		r.Body = io.NopCloser(bytes.NewReader(body))
		return nil
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// Strict leaves no way around the node although Docker Hub can be reached and
// has everything; Fallback goes on to it. Both in the old and the new containerd.
func TestModes(t *testing.T) {
	b := start(t)
	checkModes(t, b, func(mode string) (out []client) {
		for name, program := range map[string]string{"containerd 1.6": b.env.programs, "containerd 2.4": b.env.newer} {
			out = append(out, b.env.containerd(t, name, program, b.rig.Pyrsia, b.wire.addr, mode, ""))
		}
		return out
	})
}

// The same of 'pyrsia registries install', for all that read its drop-in.
func TestRegistriesModes(t *testing.T) {
	b := start(t)
	checkModes(t, b, func(mode string) []client {
		return []client{
			b.env.containersTool(t, "podman 4.3", "podman", b.rig.Pyrsia, b.wire.addr, mode),
			b.env.containersTool(t, "buildah 1.28", "buildah", b.rig.Pyrsia, b.wire.addr, mode),
			b.env.skopeo(t, b.rig.Pyrsia, b.wire.addr, mode),
			b.env.imagecopy(t, b.rig.Pyrsia, b.wire.addr, mode),
		}
	})
}

func checkModes(t *testing.T, b *bench, install func(mode string) []client) {
	b.publish("published:1", image.OCI, 1, 1<<20)
	b.publish("later:1", image.OCI, 1, 1<<20)
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	strict, fallback := map[string]client{}, map[string]client{}
	for _, c := range install("Strict") {
		strict[c.name] = c
	}
	for _, c := range install("Fallback") {
		fallback[c.name] = c
	}
	hub := &b.env.hub.requests
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

// Images of another registry than Docker Hub come by the mirror too, which these
// clients do not tell which registry they mean.
func TestRegistriesOfAnotherName(t *testing.T) {
	b := start(t)
	b.push("other:1", image.OCI, 2, 1<<20)
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	d, height, err := b.rig.Publish(t.Context(), "quay.io/library/other:1")
	if err == nil {
		err = b.mirror.AwaitBlock(t.Context(), height)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := b.env.skopeo(t, b.rig.Pyrsia, b.wire.addr, "Strict")
	if out, got, err := c.pull(t.Context(), "quay.io/library/other:1"); err != nil || got != d.String() {
		t.Errorf("published: %q, %v: %s", got, err, out)
	}
	for _, name := range []string{"quay.io/library/unpublished:1", "other:1"} { // the other is not on Docker Hub's part of the ledger
		if out, _, err := c.pull(t.Context(), name); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	if n := b.env.hub.requests.Load(); n != 0 {
		t.Errorf("%d requests went to the registries", n)
	}
}

// A longer prefix in another file leads around the node; 'pyrsia registries' says so
// before and after, and the real skopeo and the newest library do so.
func TestLongerPrefixLeadsAround(t *testing.T) {
	b := start(t)
	b.publish("published:1", image.OCI, 1, 1<<20)
	b.publish("later:1", image.OCI, 1, 1<<20)
	for _, c := range []client{b.env.skopeo(t, b.rig.Pyrsia, b.wire.addr, "Strict"), b.env.imagecopy(t, b.rig.Pyrsia, b.wire.addr, "Strict")} {
		t.Run(c.name, func(t *testing.T) { checkLongerPrefix(t, b, c) })
	}
}

func checkLongerPrefix(t *testing.T, b *bench, c client) {
	b.t = t
	b.env.hub.requests.Store(0)
	folder := registriesFolder(c.home)
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), b.rig.Pyrsia, append([]string{"registries"}, append(args, "--folder", folder)...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := run("status"); err != nil || !strings.Contains(out, "Strict") {
		t.Errorf("status: %v: %s", err, out)
	}
	if got, err := b.pull(c, "published:1", 1); got != pulled || b.env.hub.requests.Load() != 0 {
		t.Fatalf("%s, %v, %d requests to Docker Hub", got, err, b.env.hub.requests.Load())
	}
	longer := filepath.Join(folder, "registries.conf.d", "000-mine.conf")
	if err := os.WriteFile(longer, []byte("[[registry]]\nlocation = \"docker.io/library\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _, err := c.pull(t.Context(), "later:1"); err != nil || b.env.hub.requests.Load() == 0 {
		t.Errorf("with a longer prefix: %v, %d requests to Docker Hub: %s", err, b.env.hub.requests.Load(), out)
	}
	if out, err := run("status"); err == nil || !strings.Contains(out, longer) {
		t.Errorf("status with a longer prefix: %v: %s", err, out)
	}
	if out, err := run("install", "--no-port-check", "--mirror", "http://"+b.wire.addr); err == nil || !strings.Contains(out, longer) {
		t.Errorf("install with a longer prefix: %v: %s", err, out)
	}
}

// Since 5.42 the library reads no drop-in where a variable names a file, and pulls
// around the node; 'pyrsia registries' says so.
func TestVariableLeadsAround(t *testing.T) {
	b := start(t)
	b.publish("published:1", image.OCI, 1, 1<<20)
	c := b.env.imagecopy(t, b.rig.Pyrsia, b.wire.addr, "Strict")
	status := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), b.rig.Pyrsia, "registries", "status", "--folder", registriesFolder(c.home))
		cmd.Env = append(os.Environ(), "HOME="+c.home, "XDG_CONFIG_HOME=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := status(); err != nil {
		t.Errorf("status: %v: %s", err, out)
	}
	if got, err := b.pull(c, "published:1", 1); got != pulled || b.env.hub.requests.Load() != 0 {
		t.Fatalf("%s, %v, %d requests to Docker Hub", got, err, b.env.hub.requests.Load())
	}
	given := filepath.Join(c.home, "given.conf")
	if err := os.WriteFile(given, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", given)
	if out, _, err := c.pull(t.Context(), "published:1"); err != nil || b.env.hub.requests.Load() == 0 {
		t.Errorf("with the variable: %v, %d requests to Docker Hub: %s", err, b.env.hub.requests.Load(), out)
	}
	if out, err := status(); err == nil || !strings.Contains(out, given) {
		t.Errorf("status with the variable: %v: %s", err, out)
	}
}

// What is taken out of daemon.json is asked until a reload: of a real dockerd, which
// keeps mirrors of which the file says nothing.
func TestDockerdReload(t *testing.T) {
	w := findPrograms(t)
	w.hub = &hub{hosts: "/etc/hosts", roots: "/dev/null"} // nothing is pulled
	program := filepath.Join(t.TempDir(), "pyrsia")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/pyrsia").CombinedOutput(); err != nil {
		t.Fatalf("building pyrsia: %v: %s", err, out)
	}
	dir := shortDir(t)
	file, socket, certs := filepath.Join(dir, "daemon.json"), filepath.Join(dir, "d.sock"), filepath.Join(dir, "certs.d")
	if err := os.WriteFile(file, []byte("{\"debug\": true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.daemon(t, dir, socket, filepath.Join(w.programs, "bin", "dockerd"), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket, "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs", "--config-file", file)
	run := func(fails bool, says string, args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), program, append([]string{"docker"}, append(args, "--config-file", file, "--certs-d", certs, "--docker-socket", socket)...)...).CombinedOutput()
		if (err != nil) != fails || !strings.Contains(string(out), says) {
			t.Errorf("pyrsia docker %s: %v: %s, want %q", strings.Join(args, " "), err, out, says)
		}
	}
	eventually := func(fails bool, says string) { // after a reload, which takes a moment
		t.Helper()
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			out, err := exec.CommandContext(t.Context(), program, "docker", "status", "--config-file", file, "--certs-d", certs, "--docker-socket", socket).CombinedOutput()
			if (err != nil) == fails && strings.Contains(string(out), says) {
				return
			}
		}
		run(fails, says, "status")
	}
	reload := func() {
		t.Helper()
		pid, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "kill", "-HUP", strings.TrimSpace(string(pid))).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	eventually(false, "its image store is graph-driver")
	run(true, "no strict mode", "install", "--no-port-check", "--mode", "Strict")
	run(false, "goes on to Docker Hub", "install", "--no-port-check")
	run(true, "has not taken registry-mirrors", "status")
	reload()
	eventually(false, "http://127.0.0.1:5001")
	run(false, "says until then that there are no mirrors", "uninstall")
	run(false, "after Docker was reloaded", "status")
	run(false, "says until then that there are no mirrors", "uninstall") // it is too early
	reload()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if out, err := exec.CommandContext(t.Context(), program, "docker", "uninstall", "--config-file", file, "--certs-d", certs, "--docker-socket", socket).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if content, err := os.ReadFile(file); err == nil && string(content) == "{\"debug\": true}\n" {
			break
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "{\"debug\": true}\n" {
		t.Errorf("after the reload and uninstall: %q, %v", content, err)
	}
	// The reload that finds no mirrors in the file does not bring ours back.
	reload()
	run(false, "docker.io   -", "status")
	if _, err := os.Stat(certs); err == nil {
		t.Errorf("%s is there", certs)
	}
}
