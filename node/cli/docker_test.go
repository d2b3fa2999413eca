package cli

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dockerInfo is a socket that answers as dockerd does to GET /info.
func dockerInfo(t *testing.T, store string, mirrors ...string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pyrd-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	info := map[string]any{"ServerVersion": "1", "DriverStatus": [][2]string{{"driver-type", store}}, "RegistryConfig": map[string]any{"Mirrors": mirrors}}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(info) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

const (
	snapshotter = "io.containerd.snapshotter.v1"
	nobody      = "/nowhere/docker.sock"
)

func TestDockerIsSetUpByItsImageStore(t *testing.T) {
	dir := t.TempDir()
	file, hosts := filepath.Join(dir, "daemon.json"), filepath.Join(dir, "certs.d", "docker.io", "hosts.toml")
	run := func(want int, says, socket string, args ...string) {
		t.Helper()
		code, stdout, stderr := pyrsia(t, append([]string{"docker"}, append(args, "--config-file", file, "--certs-d", filepath.Join(dir, "certs.d"), "--docker-socket", socket)...)...)
		if code != want || !strings.Contains(stdout+stderr, says) {
			t.Errorf("docker %s: status %d, want %d; want %q in\n%s%s", strings.Join(args, " "), code, want, says, stdout, stderr)
		}
	}
	there := func(name string, want bool) {
		t.Helper()
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %t", name, err, want)
		}
	}
	const mirror = "http://127.0.0.1:5001"
	store, graph := dockerInfo(t, snapshotter), dockerInfo(t, "")
	asks := dockerInfo(t, "", mirror+"/")

	// The containerd image store reads hosts.toml, and is strict for any registry.
	run(0, "docker.io   -", store, "status")
	run(0, "Strict: what the node refuses is not pulled", store, "install", "--no-port-check", "--registry", "quay.io", "--registry", "docker.io")
	there(hosts, true)
	there(filepath.Join(dir, "certs.d", "quay.io", "hosts.toml"), true)
	there(file, false)
	run(0, "quay.io                ", store, "status")
	// The graph-driver store does not, whatever set it up.
	run(1, "goes around the node", graph, "status")
	run(1, "is not known", nobody, "status")
	run(1, "no strict mode", graph, "install", "--no-port-check", "--mode", "Strict")
	run(1, "for Docker Hub alone", graph, "install", "--no-port-check", "--registry", "quay.io")
	run(2, "want Strict or Fallback", graph, "install", "--no-port-check", "--mode", "Lax")
	there(hosts, true)

	// It takes the other's place.
	run(0, "goes on to Docker Hub when the node refuses", graph, "install", "--no-port-check")
	there(hosts, false)
	there(file, true)
	run(1, "has not taken registry-mirrors", graph, "status")
	run(0, "added by pyrsia docker install", asks, "status")
	run(1, "whether it has taken registry-mirrors up is not known", nobody, "status", "--image-store", "graph-driver")

	// A hosts.toml of the user's makes registry-mirrors count for nothing.
	own := "[host.\"https://mirror.example\"]\n"
	if err := errors.Join(os.MkdirAll(filepath.Dir(hosts), 0o755), os.WriteFile(hosts, []byte(own), 0o644)); err != nil {
		t.Fatal(err)
	}
	run(0, "", asks, "status")
	run(1, "take no notice of registry-mirrors", dockerInfo(t, snapshotter, mirror+"/"), "status")
	run(1, "which image store it has", nobody, "status")
	run(0, "Fallback: what the node refuses is pulled from the registry itself", store, "install", "--no-port-check", "--mode", "Fallback")
	there(file, false)
	run(0, "Fallback", store, "status")

	run(0, "", store, "uninstall")
	if got, err := os.ReadFile(hosts); err != nil || string(got) != own {
		t.Errorf("after uninstall: %q, %v", got, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Where Docker cannot be asked, what either image store reads is set up, and strictness
// is not promised.
func TestDockerThatDoesNotRun(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "daemon.json")
	run := func(args ...string) (int, string) {
		code, stdout, stderr := pyrsia(t, append([]string{"docker"}, append(args, "--config-file", file, "--certs-d", filepath.Join(dir, "certs.d"), "--docker-socket", nobody)...)...)
		return code, stdout + stderr
	}
	if code, out := run("install", "--no-port-check", "--mode", "Strict"); code != 1 || !strings.Contains(out, "which one Docker has is not known") {
		t.Errorf("Strict: %d %s", code, out)
	}
	if code, out := run("install", "--no-port-check"); code != 0 || !strings.Contains(out, "registry-mirrors") || !strings.Contains(out, "install again") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := run("uninstall"); code != 0 || !strings.Contains(out, "is as it was before") {
		t.Errorf("uninstall: %d %s", code, out)
	}
	// Its settings may say which one it has.
	if err := os.WriteFile(file, []byte(`{"features": {"containerd-snapshotter": true}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out := run("install", "--no-port-check"); code != 0 || !strings.Contains(out, "Strict") {
		t.Errorf("chosen in daemon.json: %d %s", code, out)
	}
	if code, out := run("install", "--no-port-check", "--image-store", "aufs"); code != 2 {
		t.Errorf("no image store: %d %s", code, out)
	}
}

// The port of the node must prove its holder before Docker is sent there.
func TestDockerPortIsAsked(t *testing.T) {
	dir := t.TempDir()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // "200 OK" to everything
	defer server.Close()
	foreign := server.URL
	for _, socket := range []string{dockerInfo(t, snapshotter), dockerInfo(t, "")} {
		code, stdout, stderr := pyrsia(t, "docker", "install", "--config-file", filepath.Join(dir, "daemon.json"), "--certs-d", filepath.Join(dir, "certs.d"), "--docker-socket", socket, "--mirror", foreign, "--wait", "1s")
		if code != 4 {
			t.Errorf("status %d, want 4: %s%s", code, stdout, stderr)
		}
	}
	if code, stdout, stderr := pyrsia(t, "registries", "install", "--folder", dir, "--mirror", foreign, "--wait", "1s"); code != 4 {
		t.Errorf("registries: status %d, want 4: %s%s", code, stdout, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRegistries(t *testing.T) {
	dir := t.TempDir()
	run := func(want int, says string, args ...string) {
		t.Helper()
		code, stdout, stderr := pyrsia(t, append([]string{"registries"}, append(args, "--folder", dir)...)...)
		if code != want || !strings.Contains(stdout+stderr, says) {
			t.Errorf("registries %s: status %d, want %d; want %q in\n%s%s", strings.Join(args, " "), code, want, says, stdout, stderr)
		}
	}
	main := filepath.Join(dir, "registries.conf")
	if err := os.WriteFile(main, []byte("unqualified-search-registries = [\"docker.io\", \"registry.example\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(0, "docker.io                  -", "status")
	run(0, "any, searched for at registry.example", "install", "--no-port-check")
	run(0, "Strict", "status")
	run(0, "quay.io", "install", "--no-port-check", "--registry", "quay.io", "--mode", "Fallback")
	run(0, "Fallback", "status")
	run(1, "with a port", "install", "--no-port-check", "--registry", "reg.test:5000")
	run(2, "such as http://127.0.0.1:5001", "install", "--no-port-check", "--mirror", "127.0.0.1:5001")
	longer := "[[registry]]\nlocation = \"quay.io/org\"\n"
	if err := os.WriteFile(main, []byte(longer), 0o644); err != nil {
		t.Fatal(err)
	}
	run(1, "quay.io/org", "status")
	run(1, "nothing was changed", "install", "--no-port-check", "--registry", "quay.io")
	run(0, "Warning: pulls of quay.io/org", "install", "--no-port-check", "--registry", "quay.io", "--mode", "Fallback")
	run(0, "ask the node no more", "uninstall")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
