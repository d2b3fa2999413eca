package p2ptest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/test"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
)

// publisherName is the publisher's in a cluster.
const publisherName = "publisher.images.svc"

// named has a node find the publisher's name in a file of its own, at these addresses.
func named(t *testing.T, n *testnet.Node, ips ...string) {
	t.Helper()
	hosts := filepath.Join(t.TempDir(), "hosts")
	var lines strings.Builder
	for _, ip := range ips {
		fmt.Fprintln(&lines, ip, publisherName)
	}
	if err := os.WriteFile(hosts, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Args = append([]string{"unshare", "--mount", "sh", "-ec", `mount --bind "$0" /etc/hosts; exec "$@"`, hosts}, n.Args...)
}

// Without IPv4 addresses except loopback, nodes join by each kind of address, serve
// each other, refuse what is not on the ledger, and answer clients on their own
// machine at 127.0.0.1.
func TestWithoutIPv4(t *testing.T) {
	w := newEnvOf(t, testnet.NewIPv6Env)
	image := published(t, w, "image:1", 20*mib, 100<<10)
	peer := "/p2p/" + w.Publisher.PeerID
	ways := []struct{ name, address string }{
		{"multiaddr", w.Publisher.Address()},
		{"QUIC", w.Publisher.QUIC()},
		{"open port", w.Publisher.Open("")},
		{"status.bootstrap", "/dns/" + publisherName + "/tcp/4001" + peer},
		{"open port of a Service", "http://" + publisherName + ":8080"},
		{"a name over QUIC", "/dns6/" + publisherName + "/udp/4001/quic-v1" + peer},
	}
	var nodes []*testnet.Node
	for _, way := range ways {
		n, err := w.NewMirror([]string{way.address})
		if err != nil {
			t.Fatal(err)
		}
		named(t, n, w.Publisher.IP)
		up(t, n)
		started := time.Now()
		awaitBlocks(t, 1, n)
		t.Logf("%s: joined, and has the ledger, after %s", way.name, time.Since(started).Round(time.Millisecond))
		nodes = append(nodes, n)
	}
	for _, n := range append(nodes, w.Publisher) {
		out, err := n.Command(t.Context(), "ip", "-4", "-o", "address", "show", "scope", "global").CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Fatalf("%s has an IPv4 address: %s, %v", n.Name, out, err)
		}
	}
	pullAll(t, image, nodes[0])
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	pullAll(t, image, nodes[1:]...)
	pullAcross(t, nodes[0], image) // at 127.0.0.1
	resp, err := http.Get(nodes[0].Mirror("/v2/library/unknown/manifests/1?ns=docker.io"))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
		t.Errorf("what is not on the ledger: %s", resp.Status)
	}
}

// All nodes of a cluster, whose pods are in one network, join simultaneously
// without waiting: the publisher lets them in as fast as it can.
func TestManyJoinWithoutIPv4(t *testing.T) {
	const nodes = 28
	w := newEnvOf(t, testnet.NewIPv6Env)
	published(t, w, "image:1", 1*mib)
	for range nodes {
		m, err := w.NewMirror(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range w.Mirrors {
		if err := m.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, m := range w.Mirrors {
		if err := m.AwaitBlocks(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d mirrors that started at once have the ledger after %s", nodes, time.Since(started).Round(time.Millisecond))
}

// A node that knows of many others which are gone finds the one that is there, also
// where all addresses are of IPv6.
func TestManyAreGoneWithoutIPv4(t *testing.T) {
	w := newEnvOf(t, testnet.NewIPv6Env)
	published(t, w, "image:1", 1*mib)
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	join := []string{w.Publisher.Address()}
	for port := range 120 { // on which nothing listens
		join = append(join, fmt.Sprintf("/ip6/%s/tcp/%d/p2p/%s", w.Gateway(), 7001+port, test.RandPeerIDFatal(t)))
	}
	m, err := w.NewMirror(join)
	if err != nil {
		t.Fatal(err)
	}
	up(t, m)
	time.Sleep(5 * time.Second)
	up(t, w.Publisher) // it knows no other node
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if err := m.AwaitBlocks(ctx, 1); err != nil {
		t.Error(err)
	}
	t.Logf("120 others are gone, and the publisher was found after %s", time.Since(started).Round(time.Millisecond))
}

// The frontend that holds the mirror's port on a Kubernetes node does so where only
// loopback has IPv4, and also at the loopback address of IPv6.
func TestFrontendWithoutIPv4(t *testing.T) {
	w := newEnvOf(t, testnet.NewIPv6Env)
	image := published(t, w, "image:1", 1*mib)
	for i, listen := range []string{"127.0.0.1:5001", "[::1]:5001"} {
		dir, err := os.MkdirTemp("", "fe") // short, for the path of a Unix socket is
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		m, err := w.NewMirror(nil, "--mirror-addr", "unix:"+dir+"/mirror.sock")
		if err != nil {
			t.Fatal(err)
		}
		up(t, m)
		awaitBlocks(t, 1, m)
		frontend := &testnet.Node{Host: m.Host, Dir: m.Dir + "-frontend",
			Args: []string{w.Publisher.Args[0], "frontend", "--listen", listen, "--dir", dir, "--succession", "1ms", "--drain", "1ms"}}
		if err := frontend.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = frontend.Stop() })
		url := fmt.Sprintf("http://%s%s", listen, image.Blob(0))
		await(t, 20*time.Second, "no pull at "+listen, func() bool {
			out, err := m.Command(t.Context(), "sh", "-c", "curl -sgfm 10 --noproxy '*' '"+url+"' | sha256sum").Output()
			return err == nil && strings.HasPrefix(string(out), image.Layers[0].Encoded())
		})
		// The address that is written for containerd is proven too. One of IPv6 is
		// refused: containerd 1.6 would ask the registry itself.
		certs := filepath.Join(t.TempDir(), fmt.Sprint("certs", i))
		out, err := m.Command(t.Context(), w.Publisher.Args[0], "containerd", "install", "--certs-d", certs, "--owner", "test",
			"--mirror", "http://"+listen, "--port-secret", filepath.Join(dir, "port.secret"), "--wait", "10s").CombinedOutput()
		hosts, _ := os.ReadFile(filepath.Join(certs, "docker.io", "hosts.toml"))
		switch told := strings.Contains(string(hosts), "http://"+listen); {
		case i == 0 && (err != nil || !told):
			t.Errorf("containerd is not set up: %v: %s", err, out)
		case i == 1 && (err == nil || len(hosts) > 0 || !strings.Contains(string(out), "ip6-localhost")):
			t.Errorf("containerd is told %q: %s", hosts, out)
		}
	}
}

// A name with addresses of both families leads to the publisher even if one of the
// families does not work: which of them a machine can use is unknown.
func TestNamesOfBothFamilies(t *testing.T) {
	w := newEnv(t)
	published(t, w, "image:1", 1*mib)
	for _, dead := range []struct{ family, ip string }{{"IPv4", w.Publisher.IP}, {"IPv6", w.Publisher.IP6()}} {
		for _, address := range []string{"/dns/" + publisherName + "/tcp/4001/p2p/" + w.Publisher.PeerID, "http://" + publisherName + ":8080"} {
			m, err := w.NewMirror([]string{address})
			if err != nil {
				t.Fatal(err)
			}
			// Packets go to a machine that does not exist: they are lost without an error.
			out, err := m.Command(t.Context(), "ip", "neighbour", "replace", dead.ip, "lladdr", "02:00:00:00:77:77", "dev", "eth0", "nud", "permanent").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			named(t, m, w.Publisher.IP, w.Publisher.IP6())
			started := time.Now()
			up(t, m)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err = m.AwaitBlocks(ctx, 1)
			cancel()
			t.Logf("without %s, by %s: %s", dead.family, address, time.Since(started).Round(time.Millisecond))
			if err != nil {
				t.Errorf("without %s, by %s: %v", dead.family, address, err)
			}
		}
	}
}
