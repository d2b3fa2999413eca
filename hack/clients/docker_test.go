package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// docker29 is a dockerd with the containerd image store, which is asked by its API.
type docker29 struct {
	socket, certs string
	http          *http.Client
}

// docker29 starts one, on a containerd of its own, whose certs.d 'pyrsia docker
// install' writes.
func (w *env) docker29(t *testing.T, pyrsia string, install ...string) *docker29 {
	t.Helper()
	d := w.startDocker29(t, shortDir(t), "--storage-driver=native")
	d.run(t, pyrsia, false, "", append([]string{"install", "--no-port-check"}, install...)...)
	return d
}

// startDocker29 starts one in a folder, whose etc is its /etc/docker.
func (w *env) startDocker29(t *testing.T, dir string, args ...string) *docker29 {
	t.Helper()
	programs, err := rig.Script("build.sh", "docker")
	if err != nil {
		t.Fatal(err)
	}
	etc, socket, backend := filepath.Join(dir, "etc"), filepath.Join(dir, "d.sock"), filepath.Join(dir, "c.sock")
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = [%q, %q]\n[grpc]\n  address = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"),
		"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", backend)
	// Its place cannot be chosen; in the daemon's mount namespace it is this folder.
	if err := errors.Join(os.MkdirAll(etc, 0o755), os.MkdirAll("/etc/docker", 0o755), os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o644)); err != nil {
		t.Fatal(err)
	}
	w.daemon(t, dir, backend, filepath.Join(w.newer, "bin", "containerd"), "--config", filepath.Join(dir, "config.toml"))
	w.daemon(t, dir, socket, "sh", append([]string{"-c", `mount --bind "$0" /etc/docker && exec "$@"`, etc, filepath.Join(programs, "bin", "dockerd"),
		"--containerd", backend, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--host", "unix://" + socket,
		"--bridge=none", "--iptables=false", "--ip6tables=false"}, args...)...)
	d := &docker29{socket: socket, certs: filepath.Join(etc, "certs.d"), http: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // the socket is there before it answers
		if resp, err := d.http.Get("http://docker/_ping"); err == nil {
			resp.Body.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	return d
}

// run runs 'pyrsia docker', which is to say something.
func (d *docker29) run(t *testing.T, pyrsia string, fails bool, says string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), pyrsia, append([]string{"docker"}, append(args, "--docker-socket", d.socket, "--certs-d", d.certs,
		"--config-file", filepath.Join(filepath.Dir(d.certs), "daemon.json"))...)...).CombinedOutput()
	if (err != nil) != fails || !strings.Contains(string(out), says) {
		t.Errorf("pyrsia docker %s: %v: %s, want %q", strings.Join(args, " "), err, out, says)
	}
}

// pull pulls an image, and gives the ID that Docker shows for it.
func (d *docker29) pull(t *testing.T, name string) (id string, err error) {
	t.Helper()
	resp, err := d.http.Post("http://docker/images/create?"+url.Values{"fromImage": {name}}.Encode(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return "", fmt.Errorf("%s: %s", resp.Status, body)
	}
	for dec := json.NewDecoder(resp.Body); ; {
		var progress struct{ Error string }
		if err := dec.Decode(&progress); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if progress.Error != "" {
			return "", errors.New(progress.Error)
		}
	}
	shown, err := d.http.Get("http://docker/images/" + name + "/json")
	if err != nil {
		t.Fatal(err)
	}
	defer shown.Body.Close()
	var inspected struct{ ID string }
	return inspected.ID, errors.Join(json.NewDecoder(shown.Body).Decode(&inspected), err)
}

// With the containerd image store Docker is as strict as containerd, and shows for an
// image an ID that the ledger is asked for.
func TestDockerModes(t *testing.T) {
	b := start(t)
	b.publish("published:1", image.OCI, 2, 1<<20)
	b.publish("later:1", image.OCI, 1, 1<<20)
	b.push("unpublished:1", image.OCI, 1, 1<<10)
	mirror, hub := "http://"+b.wire.addr, &b.env.hub.requests
	strict := b.env.docker29(t, b.rig.Pyrsia, "--mirror", mirror)
	fallback := b.env.docker29(t, b.rig.Pyrsia, "--mirror", mirror, "--mode", "Fallback")
	strict.run(t, b.rig.Pyrsia, false, "Strict", "status")
	fallback.run(t, b.rig.Pyrsia, false, "Fallback", "status")

	for name, d := range map[string]*docker29{"Strict": strict, "Fallback": fallback} {
		id, err := d.pull(t, "published:1")
		if err != nil || id != b.digests["published:1"].String() || hub.Load() != 0 {
			t.Errorf("%s, published: %q, %v, %d requests to Docker Hub", name, id, err, hub.Load())
			continue
		}
		for _, shown := range []string{id, id[len("sha256:"):], id[len("sha256:"):][:12], "published@" + id, b.wire.addr + "/library/published:1"} {
			out, err := exec.CommandContext(t.Context(), b.rig.Pyrsia, "log", "--node", "http://"+b.mirror.Open, shown).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "docker.io/library/published:1") {
				t.Errorf("pyrsia log %s: %v: %s", shown, err, out)
			}
		}
	}
	if _, err := strict.pull(t, "unpublished:1"); err == nil || hub.Load() != 0 {
		t.Errorf("Strict, not published: %v, %d requests to Docker Hub", err, hub.Load())
	}
	if _, err := fallback.pull(t, "unpublished:1"); err != nil || hub.Load() == 0 {
		t.Errorf("Fallback, not published: %v, %d requests to Docker Hub", err, hub.Load())
	}
	hub.Store(0)
	if err := b.mirror.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := strict.pull(t, "later:1"); err == nil || hub.Load() != 0 {
		t.Errorf("Strict, node down: %v, %d requests to Docker Hub", err, hub.Load())
	}
	if _, err := fallback.pull(t, "later:1"); err != nil || hub.Load() == 0 {
		t.Errorf("Fallback, node down: %v, %d requests to Docker Hub", err, hub.Load())
	}
	strict.run(t, b.rig.Pyrsia, false, "", "uninstall")
	if left, err := os.ReadDir(filepath.Dir(strict.certs)); err != nil || len(left) > 0 && (len(left) > 1 || left[0].Name() != "key.json") {
		t.Errorf("after uninstall: %v, %v", left, err)
	}
}

// The real dockerd accepts the daemon.json that 'pyrsia docker install' writes, and
// refuses those that it refuses.
func TestDockerdTakesWhatIsWritten(t *testing.T) {
	findPrograms(t)
	programs, err := rig.Script("build.sh", "docker")
	if err != nil {
		t.Fatal(err)
	}
	pyrsia := filepath.Join(t.TempDir(), "pyrsia")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", pyrsia, "../../cmd/pyrsia").CombinedOutput(); err != nil {
		t.Fatalf("building pyrsia: %v: %s", err, out)
	}
	utf16 := "\xff\xfe"
	for _, c := range "{\r\n  \"debug\": true\r\n}\r\n" {
		utf16 += string([]byte{byte(c), 0})
	}
	for name, tt := range map[string]struct {
		content string
		taken   bool
	}{
		"none":            {"", true},
		"byte order mark": {"\xef\xbb\xbf{\r\n  \"registry-mirrors\": [\"https://mirror.example\"],\r\n  \"debug\": true\r\n}\r\n", true},
		"UTF-16":          {utf16, true},
		"twice":           {"{\n  \"registry-mirrors\": [\"https://a.example\"],\n  \"log-driver\": \"json-file\",\n  \"registry-mirrors\": [\"https://b.example\"]\n}\n", true},
		"null":            {`{"registry-mirrors": null}`, true},
		"a secret":        {`{"proxies": {"http-proxy": "http://user:secret@proxy:3128"}}`, true},
		"an empty string": {`{"registry-mirrors": [""]}`, false},
		"a password":      {`{"registry-mirrors": ["https://me:secret@mirror.example"]}`, false},
		"a comment":       {"{\n  // mirrors\n  \"registry-mirrors\": []\n}\n", false},
		"half a UTF-16":   {utf16[:len(utf16)-1], false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			file := filepath.Join(dir, "daemon.json")
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			validate := func(args ...string) error {
				return exec.CommandContext(t.Context(), filepath.Join(programs, "bin", "dockerd"), append(args, "--userland-proxy=false", "--validate", "--config-file="+file)...).Run()
			}
			before := validate()
			out, err := exec.CommandContext(t.Context(), pyrsia, "docker", "install", "--no-port-check", "--image-store", "graph-driver", "--config-file", file, "--certs-d", filepath.Join(dir, "certs.d")).CombinedOutput()
			if (before == nil) != tt.taken || (err == nil) != tt.taken || strings.Contains(string(out), "secret") {
				t.Fatalf("dockerd says %v, install %v: %s", before, err, out)
			}
			if !tt.taken {
				return
			}
			if err := validate(); err != nil {
				t.Errorf("dockerd does not take what was written: %v", err)
			}
			if err := validate("--registry-mirror=https://mirror.example"); err == nil {
				t.Error("dockerd takes it beside --registry-mirror")
			}
		})
	}
}
