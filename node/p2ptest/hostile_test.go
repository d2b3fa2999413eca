package p2ptest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// hostileEnv names what a hostile process does, and hostileConfig how.
const (
	hostileEnv    = "PYRSIA_HOSTILE"
	hostileConfig = "PYRSIA_HOSTILE_CONFIG"
)

type hostileSettings struct {
	Dir       string
	Network   string   // the name of its ledger
	Bootstrap []string // with the victim's address first
	OpenAddr  string   // of the victim
	List      digest.Digest
}

// hostile is the main function of a hostile process.
func hostile(kind string) error {
	var s hostileSettings
	if err := json.Unmarshal([]byte(os.Getenv(hostileConfig)), &s); err != nil {
		return err
	}
	ctx := context.Background()
	switch kind {
	case "flood":
		return flood(ctx, s)
	case "records":
		return bogusRecords(ctx, s)
	case "oversize":
		return oversize(ctx, s)
	case "stranger":
		s.Network = "ledger.example/another"
	}
	h, err := join(ctx, s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { misbehave(kind, w, r) }))
	if err != nil {
		return err
	}
	fmt.Println(h.Addrs()[0].String() + "/p2p/" + h.ID().String())
	select {}
}

func join(ctx context.Context, s hostileSettings, handler http.Handler) (*p2p.Host, error) {
	h, err := p2p.New(ctx, p2p.Config{
		KeyFile: filepath.Join(s.Dir, "key"), Listen: []string{"/ip4/0.0.0.0/tcp/4001"},
		Bootstrap: s.Bootstrap, Network: s.Network,
		Essence: func(b []byte) ([]byte, error) { return b, nil },
		Check:   func([]byte) error { return nil }, Holds: func(digest.Digest) bool { return true },
		Joined: func() {}, OnCheckpoint: func(peer.ID) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return h, h.Start(handler)
}

// startHostile starts a hostile process on a host of its own, and returns
// what it printed when it was ready.
func startHostile(t *testing.T, w *testnet.Env, kind string, s hostileSettings) string {
	t.Helper()
	h, err := w.Host("hostile")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.Dir, s.Network = t.TempDir(), testnet.Origin
	config, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(context.WithoutCancel(t.Context()), self)
	cmd.Env = append(os.Environ(), hostileEnv+"="+kind, hostileConfig+"="+string(config))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := testnet.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ready := make(chan string, 1)
	go func() {
		line := make([]byte, 1024)
		n, _ := out.Read(line)
		ready <- strings.TrimSpace(string(line[:n]))
	}()
	select {
	case line := <-ready:
		if line == "" {
			t.Fatalf("hostile process %s has ended", kind)
		}
		return strings.Replace(line, "/ip4/127.0.0.1/", "/ip4/"+h.IP+"/", 1)
	case <-time.After(60 * time.Second):
		t.Fatalf("hostile process %s is not ready", kind)
	}
	return ""
}

// Peers that lie in every way: a pull completes from honest ones, and without
// any it fails, soon and clearly.
func TestHostilePeers(t *testing.T) {
	for _, kind := range []string{"wrong", "short", "endless", "slow", "liar", "stranger"} {
		t.Run(kind, func(t *testing.T) { testHostile(t, kind) })
	}
}

const (
	maxVictimMemory = 256 // MiB
	maxRefusal      = 45 * time.Second
)

func testHostile(t *testing.T, kind string) {
	w := newEnv(t)
	image := published(t, w, "image:1", 20*mib, 100<<10, 200<<10, 300<<10)
	other := published(t, w, "other:1", 20*mib, 100<<10)
	var join []string
	for range 3 {
		join = append(join, startHostile(t, w, kind, hostileSettings{Bootstrap: []string{w.Publisher.Address()}}))
	}
	victim, err := w.AddMirror(t.Context(), append(join, w.Publisher.Address()))
	if err != nil {
		t.Fatal(err)
	}
	awaitBlocks(t, 2, victim)
	if kind != "stranger" {
		awaitPeers(t, victim, 4)
	}
	took := pullAll(t, image, victim)
	wrong, err := victim.Metric(t.Context(), `pyrsia_transfer_piece_errors_total{cause="wrong"}`)
	if err != nil || kind == "wrong" && wrong == 0 {
		t.Errorf("%v wrong pieces, %v", wrong, err)
	}
	t.Logf("with an honest peer: %s", took.Round(time.Millisecond))

	// The honest peer goes: what is not there yet must be refused.
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = fetch(t.Context(), victim.Mirror(other.Blob(0)), other.Layers[0])
	if err == nil || strings.Contains(err.Error(), errUnverified.Error()) || time.Since(start) > maxRefusal {
		t.Errorf("without an honest peer: %v after %s", err, time.Since(start))
	}
	t.Logf("without: %v after %s", err, time.Since(start).Round(time.Millisecond))
	checkMemory(t, victim)
}

func checkMemory(t *testing.T, n *testnet.Node) {
	t.Helper()
	mem, err := testnet.Memory(n.PID(), "VmHWM")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s had at most %d MiB in memory", n.Name, mem/mib)
	if mem > maxVictimMemory*mib {
		t.Errorf("%s had %d MiB in memory, want at most %d", n.Name, mem/mib, maxVictimMemory)
	}
}

// Attacks on the node itself: it goes on serving.
func TestAttacks(t *testing.T) {
	for _, kind := range []string{"flood", "records", "oversize"} {
		t.Run(kind, func(t *testing.T) {
			w := newEnv(t)
			image := published(t, w, "image:1", 20*mib, 100<<10)
			other := published(t, w, "other:1", 8*mib)
			nodes := mirrors(t, w, 2)
			awaitBlocks(t, 2, nodes...)
			pullAll(t, image, nodes[0])
			lines := startHostile(t, w, kind, hostileSettings{
				Bootstrap: []string{nodes[1].Address(), w.Publisher.Address()},
				OpenAddr:  fmt.Sprintf("%s:%d", nodes[1].IP, testnet.PortOpen),
				List:      pieceList(t, w, image),
			})
			t.Log(kind, lines)
			took := pullAll(t, image, nodes[1])
			t.Logf("under attack: %s", took.Round(time.Millisecond))
			// A node that joins now has to find its way through it.
			third, err := w.AddMirror(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			awaitBlocks(t, 2, third)
			pullAll(t, other, third)
			checkMemory(t, nodes[1])
			checkMemory(t, w.Publisher)
		})
	}
}

// pieceList is what providers of an image announce.
func pieceList(t *testing.T, w *testnet.Env, image *testnet.Image) digest.Digest {
	t.Helper()
	var blocks []ledger.BlockJSON
	if err := testnet.GetJSON(t.Context(), w.Publisher.Open("/api/v1/artifacts?digest="+image.Index.String()), &blocks); err != nil || len(blocks) != 1 {
		t.Fatalf("%d blocks, %v", len(blocks), err)
	}
	entry, err := ledger.ParseEntry([]byte(blocks[0].Entry))
	if err != nil {
		t.Fatal(err)
	}
	return entry.Pieces
}
