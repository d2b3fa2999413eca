package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// client is a real container client that is set up to pull from a mirror.
type client struct {
	name string
	// pull pulls an image of Docker Hub ("busybox:1" or "busybox@sha256:...")
	// and returns what the client printed, and the digest that it then has.
	pull func(ctx context.Context, image string) (output, digest string, err error)
	home string // of podman, skopeo and buildah, which has their set-up
}

// env is what the clients run in.
type env struct {
	programs string // of Debian
	newer    string // folder with containerd 2.x
	crane    string
	hub      *hub
}

// command runs a program where Docker Hub's names lead to the stand-in.
func (w *env) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	script := `mount --bind "$1" /etc/hosts && shift && exec "$@"`
	return w.prepare(exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-c", script, "sh", w.hub.hosts, program}, args...)...), dir)
}

// prepare gives a program its folder, and all that it finds by its environment.
func (w *env) prepare(cmd *exec.Cmd, dir string) *exec.Cmd {
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+w.hub.roots, "PATH="+filepath.Join(w.programs, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a program to its end.
func (w *env) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out, err := w.command(ctx, dir, program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(program), err)
	}
	return string(out), err
}

// daemon starts a program, waits for its socket and returns its process.
func (w *env) daemon(t *testing.T, dir, socket, program string, args ...string) (pid int) {
	t.Helper()
	return startDaemon(t, dir, socket, w.command(context.Background(), dir, program, args...))
}

func startDaemon(t *testing.T, dir, socket string, cmd *exec.Cmd) (pid int) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait()
	})
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return cmd.Process.Pid
		}
		if time.Since(start) > 30*time.Second {
			out, _ := os.ReadFile(log.Name())
			t.Fatalf("%s does not start: %s", cmd, out[max(0, len(out)-2000):])
		}
	}
}

// shortDir is a temporary folder whose sockets' paths are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pyrc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// containerd starts one whose certs.d 'pyrsia containerd install' has written.
// more is added to its configuration.
func (w *env) containerd(t *testing.T, name, programs, pyrsia, mirror, mode, more string) client {
	t.Helper()
	return w.containerdIn(t, shortDir(t), name, programs, pyrsia, mirror, mode, more)
}

// containerdIn is containerd in a folder in which there may be a certs.d already.
func (w *env) containerdIn(t *testing.T, dir, name, programs, pyrsia, mirror, mode, more string) client {
	t.Helper()
	certs := filepath.Join(dir, "certs.d")
	if out, err := exec.CommandContext(t.Context(), pyrsia, "containerd", "install", "--no-port-check", "--certs-d", certs, "--mirror", "http://"+mirror, "--mode", mode).CombinedOutput(); err != nil {
		t.Fatalf("pyrsia containerd install: %v: %s", err, out)
	}
	ctr := w.startContainerd(t, dir, programs, more)
	return client{name: name, pull: func(ctx context.Context, image string) (string, string, error) {
		ref := "docker.io/library/" + image
		out, err := ctr(ctx, "images", "pull", "--hosts-dir", certs, "--snapshotter", "native", "--platform", "linux/amd64", ref)
		if err != nil {
			return out, "", err
		}
		list, err := ctr(ctx, "images", "ls", "name=="+ref)
		return out, firstDigest(strings.ReplaceAll(list, ref, "")), err
	}}
}

// startContainerd starts one in a folder, and returns its ctr.
func (w *env) startContainerd(t *testing.T, dir, programs, more string) func(ctx context.Context, args ...string) (string, error) {
	t.Helper()
	socket, config := filepath.Join(dir, "c.sock"), filepath.Join(dir, "config.toml")
	content := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [%q, %q, %q]\n[grpc]\n  address = %q\n"+
		"[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux/amd64\"\n  snapshotter = \"native\"\n  differ = \"walking\"\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"),
		"io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper", socket) + more
	if err := os.WriteFile(config, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	w.daemon(t, dir, socket, filepath.Join(programs, "bin", "containerd"), "--config", config)
	return func(ctx context.Context, args ...string) (string, error) {
		return w.run(ctx, dir, filepath.Join(programs, "bin", "ctr"), append([]string{"--address", socket}, args...)...)
	}
}

// dockerd starts one whose mirror is the node. It has no strict mode.
func (w *env) dockerd(t *testing.T, pyrsia, mirror string) client {
	t.Helper()
	dir := shortDir(t)
	socket := filepath.Join(dir, "d.sock")
	w.daemon(t, dir, socket, filepath.Join(w.programs, "bin", "dockerd"), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket, "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs",
		"--config-file", w.dockerConfig(t, dir, pyrsia, mirror))
	docker := func(ctx context.Context, args ...string) (string, error) {
		return w.run(ctx, dir, filepath.Join(w.programs, "bin", "docker"), append([]string{"--host", "unix://" + socket}, args...)...)
	}
	return client{name: "dockerd 20.10", pull: func(ctx context.Context, image string) (string, string, error) {
		out, err := docker(ctx, "pull", image)
		if err != nil {
			return out, "", err
		}
		digests, err := docker(ctx, "image", "inspect", "--format", "{{.RepoDigests}}", image)
		return out, firstDigest(digests), err
	}}
}

func (w *env) dockerConfig(t *testing.T, dir, pyrsia, mirror string) string {
	t.Helper()
	file := filepath.Join(dir, "daemon.json")
	if out, err := exec.CommandContext(t.Context(), pyrsia, "docker", "install", "--no-port-check", "--image-store", "graph-driver", "--config-file", file, "--certs-d", filepath.Join(dir, "certs.d"), "--mirror", "http://"+mirror).CombinedOutput(); err != nil {
		t.Fatalf("pyrsia docker install: %v: %s", err, out)
	}
	return file
}

// containersConfig sets podman, skopeo and buildah up by 'pyrsia registries install'.
func (w *env) containersConfig(t *testing.T, dir, pyrsia, mirror, mode string) (env []string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), pyrsia, "registries", "install", "--no-port-check", "--folder", registriesFolder(dir), "--registry", "docker.io", "--registry", "quay.io", "--mirror", "http://"+mirror, "--mode", mode).CombinedOutput(); err != nil {
		t.Fatalf("pyrsia registries install: %v: %s", err, out)
	}
	engine := filepath.Join(dir, "containers.conf")
	if err := os.WriteFile(engine, fmt.Appendf(nil, `[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
conmon_path = [%q]
[engine.runtimes]
runc = [%q]
`, filepath.Join(w.programs, "bin", "conmon"), filepath.Join(w.programs, "bin", "runc")), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"CONTAINERS_CONF=" + engine}
}

// registriesFolder is that of a user whose home a folder is.
func registriesFolder(dir string) string { return filepath.Join(dir, ".config", "containers") }

// containersTool is podman or buildah.
func (w *env) containersTool(t *testing.T, name, program, pyrsia, mirror, mode string) client {
	t.Helper()
	dir := shortDir(t)
	env := w.containersConfig(t, dir, pyrsia, mirror, mode)
	policy := filepath.Join(w.programs, "root", "etc", "containers", "policy.json")
	run := func(ctx context.Context, args ...string) (string, error) {
		args = append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)
		return w.run(ctx, dir, "env", append(append(env, filepath.Join(w.programs, "bin", program)), args...)...)
	}
	return client{name: name, home: dir, pull: func(ctx context.Context, image string) (string, string, error) {
		out, err := run(ctx, "pull", "--signature-policy", policy, fullName(image))
		if err != nil {
			return out, "", err
		}
		list, err := run(ctx, "images", "--digests", "--no-trunc")
		return out, digestOfLine(list, image), err
	}}
}

// fullName is the whole name of an image that may be one of Docker Hub's library.
func fullName(image string) string {
	if strings.Contains(image, "/") {
		return image
	}
	return "docker.io/library/" + image
}

// digestOfLine finds an image in a list of images.
func digestOfLine(list, image string) string {
	name, tag, _ := strings.Cut(strings.ReplaceAll(path.Base(image), "@", ":"), ":")
	for line := range strings.Lines(list) {
		if strings.Contains(line, "/"+name+" ") && strings.Contains(line, tag) {
			return firstDigest(line)
		}
	}
	return ""
}

func (w *env) skopeo(t *testing.T, pyrsia, mirror, mode string) client {
	t.Helper()
	dir := shortDir(t)
	env := w.containersConfig(t, dir, pyrsia, mirror, mode)
	return client{name: "skopeo 1.9", home: dir, pull: func(ctx context.Context, image string) (string, string, error) {
		to := filepath.Join(dir, "image")
		if err := os.RemoveAll(to); err != nil {
			return "", "", err
		}
		args := append(env, filepath.Join(w.programs, "bin", "skopeo"), "--insecure-policy", "copy", "--all", "docker://"+fullName(image), "dir:"+to)
		out, err := w.run(ctx, dir, "env", args...)
		if err != nil {
			return out, "", err
		}
		manifest, err := os.ReadFile(filepath.Join(to, "manifest.json"))
		return out, fmt.Sprintf("sha256:%x", sha256.Sum256(manifest)), err
	}}
}

// imagecopy is the newest library of podman, skopeo, buildah and CRI-O.
func (w *env) imagecopy(t *testing.T, pyrsia, mirror, mode string) client {
	t.Helper()
	programs, err := rig.Script("build.sh", "image")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	w.containersConfig(t, dir, pyrsia, mirror, mode)
	return client{name: "containers/image 5.42", home: dir, pull: func(ctx context.Context, image string) (string, string, error) {
		to := filepath.Join(dir, "image")
		if err := os.RemoveAll(to); err != nil {
			return "", "", err
		}
		out, err := w.run(ctx, dir, filepath.Join(programs, "bin", "imagecopy"), filepath.Join(dir, "root"), fullName(image), to)
		if err != nil {
			return out, "", err
		}
		manifest, err := os.ReadFile(filepath.Join(to, "manifest.json"))
		return out, fmt.Sprintf("sha256:%x", sha256.Sum256(manifest)), err
	}}
}

// crane knows no mirrors: the image is named at the mirror.
func (w *env) craneAt(t *testing.T, mirror string) client {
	t.Helper()
	dir := shortDir(t)
	return client{name: "crane 0.22", pull: func(ctx context.Context, image string) (string, string, error) {
		to := filepath.Join(dir, "image")
		if err := os.RemoveAll(to); err != nil {
			return "", "", err
		}
		out, err := w.run(ctx, dir, w.crane, "pull", "--insecure", "--format=oci", mirror+"/library/"+image, to)
		if err != nil {
			return out, "", err
		}
		index, err := os.ReadFile(filepath.Join(to, "index.json"))
		return out, firstDigest(string(index)), err
	}}
}

func firstDigest(s string) string {
	i := strings.Index(s, "sha256:")
	if i < 0 || len(s) < i+71 {
		return ""
	}
	return s[i : i+71]
}

// findPrograms finds the clients, or skips.
func findPrograms(t *testing.T) *env {
	t.Helper()
	if os.Getenv("PYRSIA_CLIENTS") == "" {
		t.Skip("needs real container clients: run 'make test-clients'")
	}
	w := new(env)
	script := exec.CommandContext(t.Context(), "./programs.sh")
	var stderr bytes.Buffer
	script.Stderr = &stderr
	out, err := script.Output()
	if err != nil {
		t.Fatalf("programs.sh: %v: %s", err, stderr.String())
	}
	w.programs = strings.TrimSpace(string(out))
	if w.newer, err = rig.Script("build.sh", "containerd"); err != nil {
		t.Fatal(err)
	}
	w.crane = buildTool(t, "github.com/google/go-containerregistry/cmd/crane")
	return w
}

// buildTool builds a program that hack/tools.mod pins.
func buildTool(t *testing.T, pkg string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(pkg))
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-modfile=../tools.mod", "-o", file, pkg).CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v: %s", pkg, err, out)
	}
	return file
}
