package node

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// nodeProcessEnv makes the test's program a node with this configuration.
const nodeProcessEnv = "PYRSIA_TEST_NODE"

func TestMain(m *testing.M) {
	if file := os.Getenv(nodeProcessEnv); file != "" {
		os.Exit(runNodeProcess(file))
	}
	os.Exit(m.Run())
}

func runNodeProcess(file string) int {
	data, err := os.ReadFile(file)
	var c Config
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
		err = Run(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is a node in a process of its own, that can be killed.
type process struct {
	file    string // its configuration
	config  Config
	client  *control.Client
	command *exec.Cmd
	netns   string // network namespace, if it is in one
}

// newProcess prepares a node; start starts it.
func newProcess(t *testing.T, c Config) *process {
	t.Helper()
	own, operator := newKeys(t), newKeys(t)
	c.ControlKeyFile, c.OperatorKeyFile = own.private, operator.public
	p := &process{file: filepath.Join(t.TempDir(), "config.json"), config: c}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if p.client, err = control.NewClient(c.ControlAddr, control.Keys{Own: operator.key, Peer: own.key.Public().(ed25519.PublicKey)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close(); p.kill() })
	return p
}

func (p *process) start(t *testing.T) {
	t.Helper()
	args := []string{os.Args[0]}
	if p.netns != "" {
		args = []string{"ip", "netns", "exec", p.netns, os.Args[0]}
	}
	p.command = exec.Command(args[0], args[1:]...)
	p.command.Env = append(os.Environ(), nodeProcessEnv+"="+p.file)
	p.command.Stderr = os.Stderr
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
}

// await waits until the node answers.
func (p *process) await(t *testing.T) *control.Status {
	t.Helper()
	for end := time.Now().Add(testTimeout); ; time.Sleep(20 * time.Millisecond) {
		s, err := p.client.Status(t.Context(), 0)
		if err == nil {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("the node does not answer: %v", err)
		}
	}
}

func (p *process) kill() {
	if p.command != nil {
		_ = p.command.Process.Kill()
		_ = p.command.Wait()
		p.command = nil
	}
}

// A publisher that is killed at any moment loses nothing, doubles nothing, and
// keeps nothing corrupt. PYRSIA_CRASHES is how often it is killed while it
// publishes ten times as many images.
func TestPublisherIsKilledAgainAndAgain(t *testing.T) {
	crashes := 5
	if s := os.Getenv("PYRSIA_CRASHES"); s != "" {
		var err error
		if crashes, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	registry := upstreamtest.New()
	want := map[string]digest.Digest{}
	for i := range 10 * crashes {
		name := fmt.Sprintf("i%d", i)
		layers := [][]byte{[]byte("a layer that all have"), fmt.Appendf(nil, "layer of %s", name), make([]byte, 64<<10+i)}
		d := registry.AddIndex(registry.AddImage(upstreamtest.Platform{OS: "linux", Architecture: "amd64"}, name, layers...))
		registry.Tag("library/"+name, "1", d)
		want["docker.io/library/"+name+":1"] = d
	}
	server := httptest.NewServer(registry)
	defer server.Close()
	signing, skey, vkey := signingFile(t)
	p := newProcess(t, Config{
		Role: control.Publisher, DataDir: t.TempDir(), SigningKeyFile: signing, Upstreams: map[string]string{"docker.io": server.URL},
		P2PListen: []string{"/ip4/127.0.0.1/tcp/0"}, ControlAddr: freeAddr(t),
	})
	p.start(t)
	p.await(t)
	heights := publishThroughCrashes(t, p, vkey, want, crashes)
	p.kill()
	checkAfterCrashes(t, p.config.DataDir, skey, want, heights)
}

// publishThroughCrashes has all images published, and kills the publisher
// after random times meanwhile. It returns the block of each image.
func publishThroughCrashes(t *testing.T, p *process, vkey string, want map[string]digest.Digest, crashes int) map[string]int64 {
	t.Helper()
	verifier, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	todo := make(chan string, len(want))
	for image := range want {
		todo <- image
	}
	var mu sync.Mutex // guards heights
	heights := map[string]int64{}
	var workers sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	published := make(chan struct{}, len(want))
	for range 8 {
		workers.Go(func() {
			for image := range todo {
				for ctx.Err() == nil {
					resp, err := p.client.Publish(ctx, control.PublishRequest{Image: image, Digest: want[image].String()})
					if err != nil || resp.Block == nil {
						time.Sleep(20 * time.Millisecond) // it is down: the operator backs off too
						continue
					}
					if _, err := ledger.VerifyBlock(verifier, []byte(resp.Block.Entry), []byte(resp.Block.Proof)); err != nil {
						t.Errorf("%s: %v", image, err)
					}
					mu.Lock()
					heights[image] = resp.Block.Height
					mu.Unlock()
					published <- struct{}{}
					break
				}
			}
		})
	}
	for range crashes {
		// The next one comes while work is under way: after some images more.
		for range rand.IntN(10) {
			<-published
		}
		time.Sleep(rand.N(300 * time.Millisecond))
		p.kill()
		p.start(t)
		p.await(t)
	}
	close(todo)
	workers.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%d of %d images are published in time", len(heights), len(want))
	}
	return heights
}

func checkAfterCrashes(t *testing.T, dir, skey string, want map[string]digest.Digest, heights map[string]int64) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	w, err := replica.OpenWriter(t.Context(), filepath.Join(dir, "ledger"), skey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.Size() != int64(len(want)) || len(heights) != len(want) {
		t.Errorf("%d blocks and %d answers for %d images", w.Size(), len(heights), len(want))
	}
	for image, height := range heights {
		e, err := w.Entry(t.Context(), height)
		if err != nil || e.Artifact == nil || e.Artifact.Artifact != image || e.Artifact.Digest != want[image] {
			t.Errorf("block %d is not %s: %+v, %v", height, image, e, err)
		}
	}
	s, err := store.Open(filepath.Join(dir, "store"), store.Config{Pinned: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(dir, "store", "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := s.Open(t.Context(), digest.NewDigestFromEncoded(digest.SHA256, f.Name()))
		if err != nil {
			t.Errorf("blob %s: %v", f.Name(), err)
			continue
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	for image, d := range want {
		if !s.Has(d) {
			t.Errorf("%s: its index is lost", image)
		}
	}
	t.Logf("%d blocks, %d blobs, none corrupt", w.Size(), len(files))
}
