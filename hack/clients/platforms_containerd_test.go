package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// The ways in which CRI pulls, and what containerd's log says of them.
const (
	localPull    = "using client.Pull()"
	transferPull = "using transfer service"
)

// criPlatforms are the versions of containerd, as the kubelet has them pull: those with
// two ways to do so have a row for each.
func criPlatforms() (out []platform) {
	add := func(version, how string) {
		name := "containerd " + version
		if how != "" {
			name += ", " + map[string]string{localPull: "local pull", transferPull: "transfer service"}[how]
		}
		inCI := version == debianContainerd || version == builtContainerd
		out = append(out, platform{name: name, setUp: "`pyrsia containerd install`", strict: true, inCI: inCI, start: func(t *testing.T, b *bench) puller {
			return b.cri(t, b.env.containerdPrograms(t, version), criConfig(version, how), how)
		}})
	}
	for _, version := range []string{debianContainerd, "1.6.36", "1.7.35", "2.0.14"} {
		add(version, "")
	}
	for _, version := range []string{"2.1.9", "2.2.9", "2.3.7", builtContainerd} {
		add(version, transferPull)
		add(version, localPull)
	}
	return out
}

// The versions that other tests need too.
const (
	debianContainerd = "1.6.20, of Debian 12"
	builtContainerd  = "2.4.2"
)

// containerdPrograms is the folder with a version of containerd.
func (w *env) containerdPrograms(t *testing.T, version string) string {
	t.Helper()
	switch version {
	case debianContainerd:
		return w.programs
	case builtContainerd:
		return w.newer
	}
	programs, err := rig.Script("build.sh", "containerd@"+version)
	if err != nil {
		t.Fatal(err)
	}
	return programs
}

// criConfig is a configuration of containerd, with %q for the folder of its
// registries.
func criConfig(version, how string) string {
	if strings.HasPrefix(version, "1.") {
		return "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\n  snapshotter = 'native'\n" +
			"[plugins.'io.containerd.grpc.v1.cri'.registry]\n  config_path = %q\n"
	}
	config := "version = 3\n[plugins.'io.containerd.cri.v1.images']\n  snapshotter = 'native'\n"
	if how == localPull {
		config += "  use_local_image_pull = true\n"
	}
	return config + "  [plugins.'io.containerd.cri.v1.images'.registry]\n    config_path = %q\n" +
		"[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = 'linux/amd64'\n  snapshotter = 'native'\n  differ = 'walking'\n"
}

// cri starts a containerd that 'pyrsia containerd install' has set up, and pulls as the
// kubelet does. how is the way that it is to take, if there are two.
func (b *bench) cri(t *testing.T, programs, config, how string) puller {
	t.Helper()
	m := b.newCRIDaemon(t, programs, config)
	m.start(t, b.env.command(context.Background(), m.dir, "sh", m.args(`mount -t tmpfs none /run && exec "$@"`)...))
	return func(ctx context.Context, image string) (string, error) {
		shows, err := m.pull(ctx, image)
		if err != nil || how == "" {
			return shows, err
		}
		if m.logged(how) == "" {
			err = fmt.Errorf("containerd does not say that it pulled %s", how)
		}
		return shows, err
	}
}

// criDaemon is a containerd that serves CRI.
type criDaemon struct {
	dir, program, socket, certs string
}

func (b *bench) newCRIDaemon(t *testing.T, programs, config string) *criDaemon {
	t.Helper()
	dir := shortDir(t)
	m := &criDaemon{dir: dir, program: filepath.Join(programs, "bin", "containerd"), socket: filepath.Join(dir, "c.sock"), certs: filepath.Join(dir, "certs.d")}
	if out, err := exec.CommandContext(t.Context(), b.rig.Pyrsia, "containerd", "install", "--no-port-check", "--certs-d", m.certs, "--mirror", "http://"+b.wire.addr,
		"--registry", "docker.io", "--registry", "quay.io").CombinedOutput(); err != nil {
		t.Fatalf("pyrsia containerd install: %v: %s", err, out)
	}
	head := fmt.Sprintf("root = %q\nstate = %q\ndisabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.snapshotter.v1.devmapper']\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"))
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(head+fmt.Sprintf(config, m.certs)), 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

// args are those of a shell that starts containerd by a script.
func (m *criDaemon) args(script string) []string {
	return []string{"-c", script, "sh", m.program, "--config", filepath.Join(m.dir, "config.toml"), "--address", m.socket, "--log-level", "debug"}
}

func (m *criDaemon) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	startDaemon(t, m.dir, m.socket, cmd)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the socket is there before CRI answers
		_, status, message, err := callCRI(t.Context(), m.socket, "ImageStatus", "docker.io/library/none:1")
		if err == nil && status == "0" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("CRI: status %s, %s, %v: %s", status, message, err, m.logged("failed to load plugin"))
		}
	}
}

// logged are the lines of containerd's log that have some words.
func (m *criDaemon) logged(words string) (lines string) {
	log, _ := os.ReadFile(filepath.Join(m.dir, "log")) // without it there is nothing to say
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, words) {
			lines += line
		}
	}
	return lines
}

// pull has CRI pull an image, and shows what it says of that.
func (m *criDaemon) pull(ctx context.Context, image string) (shows string, err error) {
	for _, method := range []string{"PullImage", "ImageStatus"} {
		answer, status, message, err := callCRI(ctx, m.socket, method, image)
		if err != nil {
			return "", err
		}
		if status != "0" {
			return "", errors.New(strings.ReplaceAll(message, "\n", " "))
		}
		shows = string(answer)
	}
	return shows, nil
}
