package canary

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// pinned is the digest of the canary. Where it changes, a frontend of one version
// does not have what the pods of another one ask for: until both are replaced, what
// is proven is Unknown.
const pinned = "sha256:0bfbe49192dd3aa624bca04d8e40967113c65cba70725c919cbc0ffbe5ad6838"

func TestImageStaysTheSame(t *testing.T) {
	if got := Digest(); got.String() != pinned {
		t.Errorf("the canary is %s by now, and was %s", got, pinned)
	}
}

// All that the index leads to is there, by its digest and size.
func TestImageIsWhole(t *testing.T) {
	var index v1.Index
	read(t, v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: Digest(), Size: -1}, &index)
	if len(index.Manifests) != len(programs) {
		t.Fatalf("%d images for %d platforms", len(index.Manifests), len(programs))
	}
	for _, m := range index.Manifests {
		var manifest v1.Manifest
		var config v1.Image
		read(t, m, &manifest)
		read(t, manifest.Config, &config)
		layer := read(t, manifest.Layers[0], nil)
		if config.Platform.Architecture != m.Platform.Architecture || config.OS != "linux" || config.RootFS.DiffIDs[0] != digest.FromBytes(layer) {
			t.Errorf("%s: the config does not describe the layer: %+v", m.Platform.Architecture, config)
		}
		if len(layer) > 4<<10 {
			t.Errorf("%s: the layer has %d bytes", m.Platform.Architecture, len(layer))
		}
	}
	if _, _, ok := Content(digest.FromString("something else")); ok {
		t.Error("there is content that nobody put there")
	}
}

// containerd takes the name for one of a registry of its own, and so does the
// set-up of containerd.
func TestNames(t *testing.T) {
	const uid = "0b9c5c1e-5d0f-4b0c-9f5b-1f6f3d1f2a3b"
	image, err := ledger.ParseImage(strings.TrimSuffix(Image(uid), "@"+Digest().String()) + ":tag")
	if err != nil || image.Registry != Registry(uid) {
		t.Errorf("%s is an image of %q, %v", Image(uid), image.Registry, err)
	}
	if name, err := ledger.CanonicalRegistry(Registry(uid)); err != nil || name != Registry(uid) {
		t.Errorf("the registry %s is %q, %v", Registry(uid), name, err)
	}
}

func read(t *testing.T, d v1.Descriptor, into any) []byte {
	t.Helper()
	mediaType, data, ok := Content(d.Digest)
	if !ok || mediaType != d.MediaType || digest.FromBytes(data) != d.Digest || d.Size >= 0 && int64(len(data)) != d.Size {
		t.Fatalf("%+v: %t, %s, %d bytes", d, ok, mediaType, len(data))
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

// unpack writes the program of a platform as containerd would unpack it.
func unpack(t *testing.T, arch string) string {
	t.Helper()
	var index v1.Index
	read(t, v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: Digest(), Size: -1}, &index)
	for _, m := range index.Manifests {
		if m.Platform.Architecture != arch {
			continue
		}
		var manifest v1.Manifest
		var config v1.Image
		read(t, m, &manifest)
		read(t, manifest.Config, &config)
		r := tar.NewReader(bytes.NewReader(read(t, manifest.Layers[0], nil)))
		header, err := r.Next()
		if err != nil || "/"+header.Name != config.Config.Entrypoint[0] {
			t.Fatalf("the layer has %+v, %v, and the entry point is %q", header, err, config.Config.Entrypoint)
		}
		program, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), header.Name)
		if err := os.WriteFile(name, program, os.FileMode(header.Mode)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Fatalf("there is no image for %s", arch)
	return ""
}

const timeout = 10 * time.Second

// The program waits until it is told to end, and then ends well: on this
// machine as it is, and as the first process of a container.
func TestProgramEnds(t *testing.T) {
	program := unpack(t, runtime.GOARCH)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) { ends(t, sig, program) })
	}
	t.Run("first process", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("a PID namespace takes root")
		}
		// unshare(1) passes no signal on: this one goes to the program itself.
		cmd := exec.Command(program)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
		endsCmd(t, syscall.SIGTERM, cmd)
	})
}

// That of another platform does so too, if this machine can run it.
func TestForeignProgramEnds(t *testing.T) {
	emulator, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		const reason = "needs qemu-aarch64-static, of Debian's qemu-user-static"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	ends(t, syscall.SIGTERM, emulator, unpack(t, "arm64"))
}

func ends(t *testing.T, sig syscall.Signal, command ...string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	endsCmd(t, sig, cmd)
}

// endsCmd runs a command that shall go on when it was stopped and continued, and
// end with 0 at the signal.
func endsCmd(t *testing.T, sig syscall.Signal, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	awaitWaiting(t, cmd.Process.Pid)
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("it has ended before it was told to: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("at %s: %v", sig, err)
		}
	case <-time.After(timeout):
		t.Errorf("%s does not end it", sig)
	}
}

// awaitWaiting waits until the program waits for a signal, by the system call in
// which it is (proc_pid_syscall(5)).
func awaitWaiting(t *testing.T, pid int) {
	t.Helper()
	want := map[string]string{"amd64": "128 ", "arm64": "137 "}[runtime.GOARCH]
	for end := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if err == nil && strings.HasPrefix(string(call), want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it does not wait for a signal: %v, %s", err, call)
		}
	}
}
