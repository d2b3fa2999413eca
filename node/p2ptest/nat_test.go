package p2ptest

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
	"github.com/pyrsia/pyrsia-operator/node/client"
)

// Nodes behind NATs that let nothing in join through nodes outside and get
// content from each other through holes that they punch with a relay's help.
// Where no hole can be punched they get it from nodes outside, or soon an error
// that no node has it.
func TestNAT(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("nft is missing: install nftables")
	}
	// The transport by which a node joins is that whose port at its router is known.
	for transport, address := range map[string]func(*testnet.Node) string{"/tcp/": (*testnet.Node).Address, "/quic-v1": (*testnet.Node).QUIC} {
		t.Run(strings.Trim(transport, "/"), func(t *testing.T) {
			t.Parallel()
			testNAT(t, transport, address)
		})
	}
}

func testNAT(t *testing.T, transport string, address func(*testnet.Node) string) {
	w := newEnv(t, "--nat", "--log-level", "debug")
	image := published(t, w, "image:1", 9*mib, 100<<10)
	outside := mirrors(t, w, 1, "--nat")[0]
	join := []string{address(w.Publisher), address(outside)}
	behind := func(name string, nat testnet.NAT) *testnet.Node {
		h, err := w.BehindNAT(name, nat)
		if err != nil {
			t.Fatal(err)
		}
		n := w.Mirror(h, w.Dir, join, "--nat", "--log-level", "debug")
		w.Mirrors = append(w.Mirrors, n)
		up(t, n)
		return n
	}
	holder, asker, symmetric := behind("holder", testnet.Preserving), behind("asker", testnet.Preserving), behind("symmetric", testnet.Symmetric)
	awaitBlocks(t, 1, holder, asker, symmetric)
	pullAll(t, image, holder)

	await(t, 90*time.Second, "the node behind a NAT has got no place at a relay", func() bool { return relayedBy(t, holder, outside) })
	await(t, 90*time.Second, "no hole was punched between two nodes behind NATs", func() bool { return knows(t, asker, holder) })
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	pullAll(t, image, asker)
	if !slices.ContainsFunc(peersOf(t, asker), func(p client.Peer) bool {
		return p.ID == holder.PeerID && p.Received >= 9*mib && strings.Contains(p.Addr, transport)
	}) {
		t.Errorf("the content did not come from the holder by %s: %+v", transport, peersOf(t, asker))
	}

	log, err := os.ReadFile(asker.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile("HTTP port is out of reach.*" + holder.PeerID).Match(log) {
		t.Error("the holder's HTTP port was tried through its NAT")
	}

	if knows(t, symmetric, holder) {
		t.Fatal("a hole was punched where none can be")
	}
	resp, err := http.Get(symmetric.Mirror(image.Blob(0)))
	if err != nil {
		t.Fatal(err)
	}
	why, _ := io.ReadAll(resp.Body) // what is there of it
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(why), "is not known now") {
		t.Errorf("a layer that nobody within reach has: %s: %s", resp.Status, why)
	}
	pullAll(t, image, outside) // by the connection that the holder keeps to it
	// A failed search is not repeated for two seconds.
	await(t, 20*time.Second, "the layer is refused although a node within reach has it", func() bool {
		resp, err := http.Head(symmetric.Mirror(image.Blob(0)))
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	pullAll(t, image, symmetric)
}

// relayedBy tells whether a node says that it is reached through a relay.
func relayedBy(t *testing.T, n, relay *testnet.Node) bool {
	var said struct{ Self struct{ Addrs []string } }
	if err := testnet.GetJSON(t.Context(), n.Open("/peer"), &said); err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(said.Self.Addrs, func(a string) bool { return strings.HasSuffix(a, "/p2p/"+relay.PeerID+"/p2p-circuit") })
}

// knows tells whether a node is connected with another, and not through a relay.
func knows(t *testing.T, n, other *testnet.Node) bool {
	return slices.ContainsFunc(peersOf(t, n), func(p client.Peer) bool { return p.ID == other.PeerID })
}
