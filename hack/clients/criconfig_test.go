package clients

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// configurations are what containerd is started with.
const configurations = "../../node/internal/containerd/criconfig/testdata"

// What 'pyrsia containerd status' says of a configuration is what the real
// containerd does when CRI pulls.
func TestStatusAgreesWithContainerd(t *testing.T) {
	w := findPrograms(t)
	pyrsia := buildPyrsia(t)
	files, err := filepath.Glob(configurations + "/*")
	if err != nil || len(files) < 20 {
		t.Fatalf("%v, %v", files, err)
	}
	registry := startSilentRegistry(t)
	for version, program := range map[string]string{"1.6": w.programs, "2.4": w.newer} {
		for _, file := range append(files, "none") {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".toml")+"/"+version, func(t *testing.T) {
				m := newCRIMachine(t, file, program, registry)
				m.run(t, pyrsia, "containerd", "install", "--no-port-check", "--registry", "reg.test", "--mirror", m.mirror.URL)
				said, statusErr := m.command(t.Context(), pyrsia, "containerd", "status", "--registry", "reg.test").CombinedOutput()
				seen, _ := m.pull(t, "reg.test/image:1")
				t.Logf("%s: %s", seen, said)
				if (statusErr == nil) != (seen == asksMirror) {
					t.Errorf("containerd %s; pyrsia says %v: %s", seen, statusErr, said)
				}
				if words := map[string]string{noStart: "does not start", noCRI: "CRI"}[seen]; !strings.Contains(string(said), words) {
					t.Errorf("containerd %s; pyrsia says: %s", seen, said)
				}
			})
		}
	}
}

func buildPyrsia(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pyrsia")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", file, "../../cmd/pyrsia").CombinedOutput(); err != nil {
		t.Fatalf("building pyrsia: %v: %s", err, out)
	}
	return file
}

// What 'pyrsia image-verifier status' says of a configuration is what the real
// containerd does when CRI pulls: it asks the verifier, which refuses, or goes on to
// fetch what the mirror has resolved.
func TestImageVerifierStatusAgreesWithContainerd(t *testing.T) {
	w := findPrograms(t)
	pyrsia, registry := buildPyrsia(t), startSilentRegistry(t)
	_, key, err := ledger.GenerateKey("ledger.example/clients")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, config := range []string{"version-2", "version-4", "discard-layers-list", "downloads-list", "annotations-list", "sync-fs-list", "configs-tls-and-path",
		"verifier-disabled", "verifier-elsewhere", "verifier-none"} {
		t.Run(config, func(t *testing.T) {
			m := newCRIMachine(t, filepath.Join(configurations, config+".toml"), w.newer, registry)
			m.has.Store(true)
			m.run(t, pyrsia, "containerd", "install", "--no-port-check", "--registry", "reg.test", "--mirror", m.mirror.URL)
			m.run(t, pyrsia, "image-verifier", "install", "--registry", "reg.test", "--node", "http://127.0.0.1:1", "--ledger-key", key)
			said, statusErr := m.command(t.Context(), pyrsia, "image-verifier", "status").CombinedOutput()
			seen, message := m.pull(t, "reg.test/image:1")
			if seen != asksMirror {
				t.Fatalf("containerd %s: %s", seen, message)
			}
			refused := strings.Contains(message, "verifier")
			t.Logf("%s\n%s", message, said)
			if (statusErr == nil) != refused {
				t.Errorf("the verifier refused: %t (%s); pyrsia says %v: %s", refused, message, statusErr, said)
			}
			if refused {
				asked++
			}
		})
	}
	if asked == 0 || asked == 10 {
		t.Errorf("the verifier was asked %d times of 10: this tells nothing", asked)
	}
}

// What was seen of a containerd that was told to pull.
const (
	asksMirror   = "asks the mirror"
	asksRegistry = "asks the registry itself"
	asksBoth     = "asks both"
	noCRI        = "does not serve CRI"
	noStart      = "does not start"
)

// criMachine has an /etc and an /opt of its own, as far as its programs see it.
type criMachine struct {
	dir, program string
	mirror       *httptest.Server
	asked        atomic.Int64 // the mirror
	has          atomic.Bool  // the mirror knows the digest of all tags, and no more
	registry     *silentRegistry
}

// newCRIMachine makes one with a configuration, in a file or in a folder.
func newCRIMachine(t *testing.T, config, program string, registry *silentRegistry) *criMachine {
	t.Helper()
	m := &criMachine{dir: shortDir(t), program: program, registry: registry}
	m.mirror = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		m.asked.Add(1)
		if !m.has.Load() || r.Method != http.MethodHead {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		rw.Header().Set("Docker-Content-Digest", digest.FromString("manifest").String())
		rw.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		rw.Header().Set("Content-Length", "8")
	}))
	t.Cleanup(m.mirror.Close)
	etc := filepath.Join(m.dir, "etc")
	folder := filepath.Join(etc, "containerd")
	err := errors.Join(os.MkdirAll(folder, 0o755), os.Mkdir(filepath.Join(m.dir, "opt"), 0o755),
		os.WriteFile(filepath.Join(etc, "nsswitch.conf"), []byte("hosts: files\n"), 0o644),
		os.WriteFile(filepath.Join(etc, "hosts"), []byte("127.0.0.1 localhost\n"+silentAddr+" reg.test reg.example mirror.example\n"), 0o644))
	info, statErr := os.Stat(config)
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
	case statErr != nil:
		err = errors.Join(err, statErr)
	case info.IsDir():
		err = errors.Join(err, os.CopyFS(folder, os.DirFS(config)))
	default:
		data, readErr := os.ReadFile(config)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(folder, "config.toml"), data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// command is a program on the machine. What it keeps in /run ends with it.
func (m *criMachine) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	script := `mount --bind "$1" /etc && mount --bind "$2" /opt && mount -t tmpfs none /run && shift 2 && exec "$@"`
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-c", script, "sh", filepath.Join(m.dir, "etc"), filepath.Join(m.dir, "opt"), program}, args...)...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(m.program, "bin")+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (m *criMachine) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := m.command(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", args, err, out)
	}
}

// pull starts containerd, has CRI pull an image and tells what was seen, and what
// CRI has said.
func (m *criMachine) pull(t *testing.T, image string) (seen, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	socket := filepath.Join(m.dir, "c.sock")
	log, err := os.Create(filepath.Join(m.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := m.command(ctx, filepath.Join(m.program, "bin", "containerd"), "--root", filepath.Join(m.dir, "root"), "--state", filepath.Join(m.dir, "state"), "--address", socket)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		<-ended
	}()
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case <-ended:
			if ctx.Err() != nil {
				t.Fatal("containerd takes too long to start")
			}
			return noStart, ""
		case <-time.After(50 * time.Millisecond):
		}
	}
	mirrorBefore, registryBefore := m.asked.Load(), m.registry.asked.Load() // pyrsia's status asks the mirror too
	status, message, err := pullByCRI(ctx, socket, image)
	mirror, registry := m.asked.Load() > mirrorBefore, m.registry.asked.Load() > registryBefore
	switch {
	case err != nil:
		t.Fatalf("calling CRI: %v", err)
	case status == "0":
		t.Fatal("an image that is nowhere was pulled")
	case mirror && registry:
		return asksBoth, message
	case mirror:
		return asksMirror, message
	case registry:
		return asksRegistry, message
	case status == "12": // UNIMPLEMENTED
		return noCRI, message
	}
	t.Fatalf("nobody was asked: status %s, %s", status, message)
	return "", ""
}

// pullByCRI calls PullImage of CRI as the kubelet does, and returns gRPC's status.
func pullByCRI(ctx context.Context, socket, image string) (status, message string, err error) {
	_, status, message, err = callCRI(ctx, socket, "PullImage", image)
	return status, message, err
}

// callCRI calls a method of CRI's image service (runtime.v1) whose request begins with
// the image, and returns the answer as it is, and gRPC's status.
func callCRI(ctx context.Context, socket, method, image string) (answer []byte, status, message string, err error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	field := func(value []byte) []byte {
		return append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(value))), value...)
	}
	request := field(field([]byte(image))) // the request's image, ImageSpec.image
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cri/runtime.v1.ImageService/"+method, bytes.NewReader(append(body, request...)))
	if err != nil {
		return nil, "", "", err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", "", err
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		return nil, "", "", err
	}
	for _, header := range []http.Header{resp.Trailer, resp.Header} {
		if status := header.Get("Grpc-Status"); status != "" {
			message, err := url.PathUnescape(header.Get("Grpc-Message"))
			return answer, status, message, err
		}
	}
	return nil, "", "", fmt.Errorf("%s without a status of gRPC", resp.Status)
}

// silentAddr is an otherwise unused loopback address.
const silentAddr = "127.83.72.62"

// silentRegistry counts connections to a registry, and never answers.
type silentRegistry struct {
	asked atomic.Int64
}

func startSilentRegistry(t *testing.T) *silentRegistry {
	t.Helper()
	l, err := net.Listen("tcp", silentAddr+":443")
	if err != nil {
		t.Fatalf("the registry's stand-in: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	r := new(silentRegistry)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.asked.Add(1)
			conn.Close()
		}
	}()
	return r
}
