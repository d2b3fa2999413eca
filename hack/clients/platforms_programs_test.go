package clients

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// platforms are the rows, those of containerd first.
func platforms() []platform {
	mirror := func(b *bench) string { return "http://" + b.wire.addr }
	return append(criPlatforms(), []platform{
		{name: "dockerd 29, containerd store", setUp: "`pyrsia docker install`", strict: true, inCI: true, start: func(t *testing.T, b *bench) puller {
			return b.env.docker29(t, b.rig.Pyrsia, "--mirror", mirror(b), "--registry", "docker.io", "--registry", "quay.io").puller(t)
		}},
		{name: "dockerd 29, containerd store, registry-mirrors alone", setUp: "`registry-mirrors` in daemon.json", inCI: true, start: func(t *testing.T, b *bench) puller {
			return b.dockerWithMirrors(t, "--storage-driver=native")
		}},
		{name: "dockerd 29, graph drivers", setUp: "`pyrsia docker install`: `registry-mirrors`", start: func(t *testing.T, b *bench) puller {
			return b.dockerWithMirrors(t, "--feature=containerd-snapshotter=false", "--storage-driver=vfs")
		}},
		{name: "dockerd 20.10.24", setUp: "`pyrsia docker install`: `registry-mirrors`", start: func(t *testing.T, b *bench) puller {
			return b.env.dockerd(t, b.rig.Pyrsia, b.wire.addr).puller()
		}},
		{name: "buildkitd 0.34.2, mirrors", setUp: "`mirrors` in buildkitd.toml", start: func(t *testing.T, b *bench) puller { return b.buildkit(t, false) }},
		{name: "buildkitd 0.34.2, source policy", setUp: "a source policy that names the mirror", strict: true, start: func(t *testing.T, b *bench) puller { return b.buildkit(t, true) }},
		{name: "containers/image 5.42.1", setUp: "`pyrsia registries install`", strict: true, inCI: true, start: func(t *testing.T, b *bench) puller {
			return b.env.imagecopy(t, b.rig.Pyrsia, b.wire.addr, "Strict").puller()
		}},
		{name: "podman 4.3.1", setUp: "`pyrsia registries install`", strict: true, start: func(t *testing.T, b *bench) puller {
			return b.env.containersTool(t, "podman 4.3", "podman", b.rig.Pyrsia, b.wire.addr, "Strict").puller()
		}},
		{name: "skopeo 1.9.3", setUp: "`pyrsia registries install`", strict: true, start: func(t *testing.T, b *bench) puller {
			return b.env.skopeo(t, b.rig.Pyrsia, b.wire.addr, "Strict").puller()
		}},
		{name: "stargz-snapshotter 0.19.1, config_path", setUp: "`pyrsia containerd install`, and that folder as `[registry] config_path`", strict: true, lazy: true, start: func(t *testing.T, b *bench) puller {
			return b.stargz(t, "[registry]\nconfig_path = \"%[1]s\"\n")
		}},
		{name: "stargz-snapshotter 0.19.1, resolver", setUp: "`pyrsia containerd install`, and the mirror as `[[resolver.host.REGISTRY.mirrors]]`", lazy: true, start: func(t *testing.T, b *bench) puller {
			return b.stargz(t, "[[resolver.host.\"docker.io\".mirrors]]\nhost = \"%[2]s\"\ninsecure = true\n[[resolver.host.\"quay.io\".mirrors]]\nhost = \"%[2]s\"\ninsecure = true\n")
		}},
	}...)
}

// puller pulls by a client.
func (c client) puller() puller {
	return func(ctx context.Context, image string) (string, error) {
		out, digest, err := c.pull(ctx, image)
		if err != nil && strings.TrimSpace(out) != "" {
			err = errors.New(out)
		}
		return digest, err
	}
}

// puller pulls by the API of the Docker Engine.
func (d *docker29) puller(t *testing.T) puller {
	return func(ctx context.Context, image string) (string, error) {
		if _, err := d.pull(t, image); err != nil {
			return "", errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
		}
		resp, err := d.http.Get("http://docker/images/" + image + "/json")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		shows, err := io.ReadAll(resp.Body)
		return string(shows), err
	}
}

// dockerWithMirrors starts a dockerd 29 whose daemon.json has the registry-mirrors that
// 'pyrsia docker install' writes for the image store before containerd's.
func (b *bench) dockerWithMirrors(t *testing.T, args ...string) puller {
	t.Helper()
	dir := shortDir(t)
	etc := filepath.Join(dir, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	b.env.dockerConfig(t, etc, b.rig.Pyrsia, b.wire.addr)
	return b.env.startDocker29(t, dir, args...).puller(t)
}

// sourcePolicy has BuildKit ask the mirror for all images of two registries.
const sourcePolicy = `{"rules": [
  {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/*"}, "updates": {"identifier": "docker-image://%[1]s/${1}"}},
  {"action": "CONVERT", "selector": {"identifier": "docker-image://quay.io/*"}, "updates": {"identifier": "docker-image://%[1]s/quay.io/${1}"}}
]}
`

// buildkit starts a buildkitd, and pulls by a build that adds nothing.
func (b *bench) buildkit(t *testing.T, policy bool) puller {
	t.Helper()
	programs, err := rig.Script("build.sh", "buildkit")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	config := "[worker.containerd]\n  enabled = false\n[worker.oci]\n  snapshotter = \"native\"\n"
	if !policy {
		config += fmt.Sprintf("[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.\"quay.io\"]\n  mirrors = [%[1]q]\n", b.wire.addr)
	}
	if err := errors.Join(os.Mkdir(file("build"), 0o755), os.WriteFile(file("buildkitd.toml"), []byte(config), 0o644),
		os.WriteFile(file("policy.json"), fmt.Appendf(nil, sourcePolicy, b.wire.addr), 0o644)); err != nil {
		t.Fatal(err)
	}
	b.env.daemon(t, dir, file("b.sock"), "sh", "-c", `mount -t tmpfs none /run && exec "$@"`, "sh", filepath.Join(programs, "bin", "buildkitd"),
		"--config", file("buildkitd.toml"), "--addr", "unix://"+file("b.sock"), "--root", file("root"), "--oci-worker-net", "host")
	return func(ctx context.Context, image string) (string, error) {
		if err := os.WriteFile(file("build/Dockerfile"), []byte("FROM "+image+"\n"), 0o644); err != nil {
			return "", err
		}
		args := []string{"--addr", "unix://" + file("b.sock"), "build", "--progress=plain", "--no-cache", "--frontend", "dockerfile.v0",
			"--local", "context=" + file("build"), "--local", "dockerfile=" + file("build"), "--output", "type=oci,dest=" + file("image.tar")}
		if policy {
			args = append(args, "--source-policy-file", file("policy.json"))
		}
		if out, err := b.env.run(ctx, dir, filepath.Join(programs, "bin", "buildctl"), args...); err != nil {
			return "", errors.New(out)
		}
		return archiveNames(file("image.tar"))
	}
}

// archiveNames are the names of the files in an archive.
func archiveNames(file string) (names string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return "", err
		}
		names += h.Name + "\n"
	}
}

// inside is a program in the mount namespace of another, as env.command runs it.
func (w *env) inside(ctx context.Context, pid int, dir, program string, args ...string) *exec.Cmd {
	return w.prepare(exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid), program}, args...)...), dir)
}
