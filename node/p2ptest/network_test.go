package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
)

const mib = 1 << 20

// Eight nodes that start together and pull simultaneously cost the publisher
// little more than one copy.
func TestFanOutTradesPieces(t *testing.T) {
	w := newEnv(t)
	image := published(t, w, "fan:1", 48*mib, 32*mib, 16*mib)
	nodes := mirrors(t, w, 8)
	awaitBlocks(t, 1, nodes...)
	if err := w.Publisher.Shape(400, 0); err != nil {
		t.Fatal(err)
	}
	before := sent(t, w.Publisher.Host)
	took := pullAll(t, image, nodes...)
	copies := float64(sent(t, w.Publisher.Host)-before) / float64(image.Size)
	t.Logf("8 nodes pulled %d MiB in %s; the publisher sent %.2f copies", image.Size/mib, took, copies)
	if copies > 2 {
		t.Errorf("the publisher sent %.2f copies, want less than 2", copies)
	}
}

// The two halves of a network that falls apart each go on with what they
// have, and find together again.
func TestPartitionHeals(t *testing.T) {
	w := newEnv(t)
	first := published(t, w, "first:1", 9*mib, 1*mib)
	nodes := mirrors(t, w, 8)
	awaitBlocks(t, 1, nodes...)
	here, there := nodes[:4], nodes[4:]
	pullAll(t, first, there[0])

	for _, n := range there {
		if err := n.Move(1); err != nil {
			t.Fatal(err)
		}
	}
	second := published(t, w, "second:1", 9*mib)
	awaitBlocks(t, 2, here...)
	pullAll(t, second, here...)
	// The other side has no publisher, but a mirror with the content.
	for _, n := range there {
		pullAcross(t, n, first)
	}

	for _, n := range there {
		if err := n.Move(0); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	awaitBlocks(t, 2, there...)
	t.Logf("8 nodes have one ledger again %s after the partition", time.Since(start).Round(time.Millisecond))
	pullAll(t, second, there...)
}

// pullAcross pulls by a client on the node's own host: this program is on the
// other side.
func pullAcross(t *testing.T, n *testnet.Node, image *testnet.Image) {
	t.Helper()
	for i := range image.Layers {
		script := fmt.Sprintf("curl -sfm 60 http://127.0.0.1:%d%s | sha256sum", testnet.PortMirror, image.Blob(i))
		out, err := n.Command(t.Context(), "bash", "-o", "pipefail", "-c", script).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), image.Layers[i].Encoded()) {
			t.Fatalf("%s: layer %d: %s, %v", n.Name, i, out, err)
		}
	}
}

// The publisher goes for good: mirrors serve each other, and a node joins
// through any one of them, by each kind of address.
func TestMirrorsGoOnWithoutThePublisher(t *testing.T) {
	w := newEnv(t)
	image := published(t, w, "image:1", 20*mib, 100<<10)
	nodes := mirrors(t, w, 3)
	awaitBlocks(t, 1, nodes...)
	pullAll(t, image, nodes[0])
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	pullAll(t, image, nodes[1:]...)

	for name, address := range map[string]string{
		"multiaddr":        nodes[2].Address(),
		"open port":        fmt.Sprintf("http://%s:%d", nodes[1].IP, testnet.PortOpen),
		"IPv6":             fmt.Sprintf("/ip6/%s/tcp/%d/p2p/%s", nodes[0].IP6(), testnet.PortP2P, nodes[0].PeerID),
		"QUIC":             nodes[0].QUIC(),
		"one that is gone": w.Publisher.Address(),
		"open port, IPv6":  fmt.Sprintf("http://[%s]:%d", nodes[1].IP6(), testnet.PortOpen),
	} {
		t.Run(name, func(t *testing.T) {
			join := []string{address}
			if name == "one that is gone" {
				join = append(join, nodes[1].Address())
			}
			n, err := w.AddMirror(t.Context(), join)
			if err != nil {
				t.Fatal(err)
			}
			awaitBlocks(t, 1, n)
			pullAll(t, image, n)
		})
	}

	// A mirror that restarts finds its peers of before: its only bootstrap
	// address is the publisher's.
	time.Sleep(time.Second)
	if err := nodes[0].Stop(); err != nil {
		t.Fatal(err)
	}
	up(t, nodes[0])
	awaitPeers(t, nodes[0], 2)
}

// Packets take long, and one in fifty is lost.
func TestDelayAndLoss(t *testing.T) {
	w := newEnv(t)
	image := published(t, w, "image:1", 9*mib, 100<<10)
	n, err := w.NewMirror(nil)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := n.NewWire(20*time.Millisecond, 0.02)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wire.Close() })
	up(t, n)
	awaitBlocks(t, 1, n)
	took := pullAll(t, image, n)
	t.Logf("9 MiB in %s, %d packets were lost", took.Round(time.Millisecond), wire.Dropped.Load())
	if wire.Dropped.Load() == 0 {
		t.Error("no packet was lost")
	}
}

// A node whose clock is an hour off follows, pulls and serves. The clock is
// the program's own: it is built with a library that adds an hour.
func TestClockSkew(t *testing.T) {
	w := newEnv(t)
	image := published(t, w, "image:1", 9*mib, 100<<10)
	binary := skewed(t)
	skew, err := w.NewMirror(nil)
	if err != nil {
		t.Fatal(err)
	}
	skew.Args[0] = binary
	up(t, skew)
	awaitBlocks(t, 1, skew)
	pullAll(t, image, skew)
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	// Its peer's clock is right, an hour behind.
	right, err := w.AddMirror(t.Context(), []string{skew.Address()})
	if err != nil {
		t.Fatal(err)
	}
	awaitBlocks(t, 1, right)
	pullAll(t, image, right)
	log, err := os.ReadFile(skew.LogFile())
	if err != nil || !strings.Contains(string(log), "time="+time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:")) &&
		!strings.Contains(string(log), "time="+time.Now().Add(59*time.Minute).UTC().Format("2006-01-02T15:")) {
		t.Errorf("the clock is not an hour off: %.200s, %v", log, err)
	}
}

// skewed builds the program with a clock that is an hour ahead.
func skewed(t *testing.T) string {
	t.Helper()
	root, err := goCommand(t.Context(), "env", "GOROOT")
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(root, "src", "time", "time.go")
	old, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const now = "\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(old), now) == 0 {
		t.Fatalf("%s does not read the clock as expected", source)
	}
	// At a place that stays the same, so that the build is cached.
	dir := filepath.Join(os.TempDir(), "pyrsia-skewed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	patched, overlay, binary := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(t.TempDir(), "pyrsia")
	err = errors.Join(
		os.WriteFile(patched, []byte(strings.ReplaceAll(string(old), now, now+"\tsec += 3600\n")), 0o644),
		os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, source, patched), 0o644))
	if err == nil {
		_, err = goCommand(t.Context(), "build", "-overlay", overlay, "-o", binary, "github.com/pyrsia/pyrsia-operator/cmd/pyrsia")
	}
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// A cold blob is fetched once, however many clients ask for it at the same
// time.
func TestColdBlobComesOnce(t *testing.T) {
	w := newEnv(t)
	image := published(t, w, "image:1", 20*mib)
	n := mirrors(t, w, 1)[0]
	awaitBlocks(t, 1, n)
	before := sent(t, w.Publisher.Host)
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() { errs[i] = fetch(t.Context(), n.Mirror(image.Blob(0)), image.Layers[0]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if copies := float64(sent(t, w.Publisher.Host)-before) / float64(image.Size); copies > 1.2 {
		t.Errorf("the publisher sent %.2f copies to one node", copies)
	}
}

// A closed network: nodes that are not on the list do not get in, and content
// goes over encrypted streams only.
func TestClosedNetwork(t *testing.T) {
	w := newEnv(t, "--encrypt-transfers")
	image := published(t, w, "image:1", 9*mib)
	member := mirrors(t, w, 1, "--encrypt-transfers")[0]
	awaitBlocks(t, 1, member)
	pullAll(t, image, member)
	if err := w.Publisher.Stop(); err != nil {
		t.Fatal(err)
	}
	w.Publisher.Args = append(w.Publisher.Args, "--allow-peer", member.PeerID)
	up(t, w.Publisher)
	stranger, err := w.AddMirror(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	awaitPeers(t, member, 1)
	time.Sleep(2 * time.Second)
	var peers []struct{ ID, Via string }
	if err := testnet.GetJSON(t.Context(), stranger.Open("/api/v1/peers"), &peers); err != nil || len(peers) != 0 {
		t.Errorf("a stranger has the peers %v, %v", peers, err)
	}
	if err := testnet.GetJSON(t.Context(), member.Open("/api/v1/peers"), &peers); err != nil || len(peers) != 1 || peers[0].Via != "libp2p" {
		t.Errorf("the member has the peers %v, %v", peers, err)
	}
	resp, err := http.Get(w.Publisher.Open("/blobs/sha256/" + image.Layers[0].Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusNotFound {
		t.Errorf("content over plain HTTP: %s", resp.Status)
	}
}

// A bound on the bandwidth holds, and a pull within it completes.
func TestBandwidthLimit(t *testing.T) {
	w := newEnv(t, "--upload-limit", "8Mi")
	image := published(t, w, "image:1", 16*mib)
	n := mirrors(t, w, 1)[0]
	awaitBlocks(t, 1, n)
	if took := pullAll(t, image, n); took < 1500*time.Millisecond {
		t.Errorf("16 MiB at 8 MiB/s took %s", took)
	}
}

// Over a link of 4 Mbit/s a client is answered before it gives up, and gets all of
// three layers that it pulls in parallel, whether the link itself is slow or the
// node's own limit is.
func TestSlowLink(t *testing.T) {
	for name, args := range map[string][]string{"bounded": {"--download-limit", "512Ki"}, "slow": nil} {
		t.Run(name, func(t *testing.T) {
			w := newEnv(t)
			image := published(t, w, "image:1", 5*mib, 5*mib, 5*mib)
			nodes := mirrors(t, w, 1)
			awaitBlocks(t, 1, nodes...)
			pullAll(t, image, nodes...) // a second holder
			n := mirrors(t, w, 1, args...)[1]
			awaitBlocks(t, 1, n)
			if args == nil {
				if err := n.Shape(0, 4); err != nil {
					t.Fatal(err)
				}
			}
			impatient := &http.Transport{ResponseHeaderTimeout: 30 * time.Second}
			defer impatient.CloseIdleConnections()
			usual := http.DefaultClient.Transport
			http.DefaultClient.Transport = impatient
			defer func() { http.DefaultClient.Transport = usual }()
			took := pullAll(t, image, n)
			t.Logf("15 MiB in %s", took)
		})
	}
}

// A node that is killed while it downloads goes on with the pieces that it
// has, fetches none of them again, and serves nothing unverified.
func TestKilledWhileDownloading(t *testing.T) {
	const rounds = 100
	w := newEnv(t)
	if err := w.Publisher.Shape(800, 0); err != nil {
		t.Fatal(err)
	}
	n := mirrors(t, w, 1)[0]
	kept, refetched := 0, 0
	var image *testnet.Image
	fresh := true
	for round := range rounds {
		if fresh {
			name := fmt.Sprintf("image:%d", round)
			image = published(t, w, name, 64*mib)
			fresh = false
		}
		awaitBlocks(t, 1, n)
		if err := awaitImage(t.Context(), n, image); err != nil {
			t.Fatal(err)
		}
		before := verifiedOnDisk(t, n, image)
		kept += before
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() { got <- fetch(ctx, n.Mirror(image.Blob(0)), image.Layers[0]) }()
		killed := false
		select {
		case err := <-got:
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		case <-time.After(time.Duration(rand.IntN(700)) * time.Millisecond):
			killed = true
		}
		if !killed {
			bytes, err := n.Metric(t.Context(), `pyrsia_transfer_bytes_total{source="peers"}`)
			if err != nil {
				t.Fatal(err)
			}
			missing := image.Size - int64(before)*4*mib
			if again := int64(bytes) - missing; again > mib { // beside the piece list
				refetched += int(again)
				t.Errorf("round %d: %d pieces were there, and %d MiB came for %d MiB missing", round, before, int(bytes)/mib, missing/mib)
			}
			fresh = true
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		if killed {
			if err := <-got; err == nil || errors.Is(err, errUnverified) {
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				fresh = true // it was done just before
			}
		}
		cancel()
		up(t, n)
	}
	t.Logf("%d kills; %d verified pieces were on disk after them, %d bytes were fetched again", rounds, kept, refetched)
	if kept == 0 {
		t.Error("no kill hit a download")
	}
}
