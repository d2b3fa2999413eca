package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

var errNotRoot = errors.New("network namespaces need root and the program ip")

// namespace is a network namespace that reaches the world by one link, on
// which the test counts the packets that leave it.
type namespace struct {
	name, link   string
	inner, outer netip.Addr

	mu   sync.Mutex
	sent map[netip.AddrPort]int // guarded by mu: packets by destination
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal(errNotRoot)
		}
		t.Skip(errNotRoot)
	}
	id := os.Getpid() % 60000
	n := &namespace{
		name: fmt.Sprintf("pyrsia-test-%d", id), link: fmt.Sprintf("pyt%d", id),
		outer: netip.AddrFrom4([4]byte{10, 213, byte(id >> 8), byte(id)&0xfc | 1}), inner: netip.AddrFrom4([4]byte{10, 213, byte(id >> 8), byte(id)&0xfc | 2}),
		sent: map[netip.AddrPort]int{},
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", n.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", n.name).Run() })
	ip("link", "add", n.link, "type", "veth", "peer", "name", "eth0", "netns", n.name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", n.link).Run() })
	ip("address", "add", n.outer.String()+"/30", "dev", n.link)
	ip("link", "set", n.link, "up")
	ip("-n", n.name, "address", "add", n.inner.String()+"/30", "dev", "eth0")
	ip("-n", n.name, "link", "set", "lo", "up")
	ip("-n", n.name, "link", "set", "eth0", "up")
	ip("-n", n.name, "route", "add", "default", "via", n.outer.String())
	n.count(t)
	return n
}

// count reads every IPv4 packet that comes out of the namespace (packet(7)).
func (n *namespace) count(t *testing.T) {
	t.Helper()
	link, err := net.InterfaceByName(n.link)
	if err != nil {
		t.Fatal(err)
	}
	const protocol = uint16(0x0008) // EtherType IPv4, 0x0800, in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done; _ = unix.Close(fd) })
	go func() {
		defer close(done)
		packet := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			size, from, err := unix.Recvfrom(fd, packet, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING {
				n.note(packet[:size])
			}
		}
	}()
}

// note counts one packet (RFC 791, section 3.1).
func (n *namespace) note(packet []byte) {
	if len(packet) < 20 {
		return
	}
	to := netip.AddrFrom4([4]byte(packet[16:20]))
	port := uint16(0)
	header := int(packet[0]&0xf) * 4
	if protocol := packet[9]; (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP) && len(packet) >= header+4 {
		port = binary.BigEndian.Uint16(packet[header+2:])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent[netip.AddrPortFrom(to, port)]++
}

// packets counts those to matching destinations.
func (n *namespace) packets(match func(netip.AddrPort) bool) (count int, where []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for to, packets := range n.sent {
		if match(to) {
			count += packets
			where = append(where, fmt.Sprintf("%d to %s", packets, to))
		}
	}
	return count, where
}

// outsideUpstream serves an upstream registry at the namespace's other end.
func (n *namespace) outsideUpstream(t *testing.T) (addr netip.AddrPort) {
	t.Helper()
	registry := upstreamtest.New()
	registry.Tag("library/alpine", "1", registry.AddIndex(registry.AddImage(upstreamtest.Platform{OS: "linux", Architecture: "amd64"}, "a", []byte("layer"))))
	l, err := net.Listen("tcp", netip.AddrPortFrom(n.outer, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// pullUnknown asks a node's registry port for images in every way that clients do.
func pullUnknown(t *testing.T, addr string) {
	t.Helper()
	for _, path := range []string{
		"/v2/library/unknown/manifests/1", "/v2/library/unknown/manifests/1?ns=docker.io", "/v2/x/y/manifests/latest?ns=ghcr.io",
		"/v2/library/unknown/manifests/sha256:" + strings.Repeat("0", 64), "/v2/library/unknown/blobs/sha256:" + strings.Repeat("1", 64),
		"/v2/library/unknown/referrers/sha256:" + strings.Repeat("2", 64), "/v2/library/unknown/tags/list", "/v2/_catalog",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			// What refers to an unknown digest is an empty list (OCI distribution-spec).
			list := path == "/v2/_catalog" || strings.Contains(path, "/referrers/")
			want := http.StatusNotFound
			if strings.Contains(path, "ns=") {
				want = http.StatusForbidden // which says why
			}
			if !list && resp.StatusCode != want {
				t.Errorf("%s %s: %s", method, path, resp.Status)
			}
		}
	}
}

// A mirror that is asked for what is not on the ledger asks only its peers: not
// a packet leaves it for an upstream or a name server.
func TestMirrorsNeverContactAnUpstream(t *testing.T) {
	n := newNamespace(t)
	upstream := n.outsideUpstream(t)
	signing, _, _ := signingFile(t)
	public := start(t, Config{
		Role: control.Publisher, SigningKeyFile: signing, Upstreams: map[string]string{"docker.io": "http://" + upstream.String()},
		P2PListen: []string{"/ip4/" + n.outer.String() + "/tcp/0"},
	})
	public.publish(t, "alpine:1")
	at := func(port int) string { return netip.AddrPortFrom(n.inner, uint16(port)).String() }
	p := newProcess(t, Config{
		Role: control.Mirror, DataDir: t.TempDir(), LedgerKey: public.ledger.Key(), Bootstrap: []string{public.address()},
		P2PListen: []string{"/ip4/" + n.inner.String() + "/tcp/4001"}, ControlAddr: at(9443), MirrorAddr: at(5001), OpenAddr: at(8080),
	})
	p.netns = n.name
	p.start(t)
	for end := time.Now().Add(testTimeout); ; time.Sleep(50 * time.Millisecond) {
		if s := p.await(t); s.Ledger.Checkpoint != "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the mirror has not got the ledger")
		}
	}
	pullUnknown(t, at(5001))
	if total, _ := n.packets(func(netip.AddrPort) bool { return true }); total == 0 {
		t.Error("no packet of the mirror was counted: the count is wrong")
	}
	if count, where := n.packets(func(to netip.AddrPort) bool {
		return to.Addr() == n.outer && to.Port() == upstream.Port() || to.Port() == 53
	}); count > 0 {
		t.Errorf("packets to the upstream or a name server: %v", where)
	}
	if count, where := n.packets(func(to netip.AddrPort) bool { return to.Addr() != n.outer && !to.Addr().IsMulticast() }); count > 0 {
		t.Errorf("packets to others than the publisher: %v", where)
	}
}

// A publisher that serves clients and was not told to publish on pull refuses
// as a mirror does. When the operator asks it, packets do leave.
func TestPublisherThatRefusesContactsNoUpstreamOnPull(t *testing.T) {
	n := newNamespace(t)
	upstream := n.outsideUpstream(t)
	at := func(port int) string { return netip.AddrPortFrom(n.inner, uint16(port)).String() }
	signing, _, _ := signingFile(t)
	p := newProcess(t, Config{
		Role: control.Publisher, DataDir: t.TempDir(), SigningKeyFile: signing, Upstreams: map[string]string{"docker.io": "http://" + upstream.String()},
		P2PListen: []string{"/ip4/" + n.inner.String() + "/tcp/4001"}, ControlAddr: at(9443), MirrorAddr: at(5001),
	})
	p.netns = n.name
	p.start(t)
	p.await(t)
	pullUnknown(t, at(5001))
	toUpstream := func(to netip.AddrPort) bool { return to == upstream }
	if count, where := n.packets(toUpstream); count > 0 {
		t.Errorf("packets to the upstream: %v", where)
	}
	if _, err := p.client.Resolve(t.Context(), control.ResolveRequest{Image: "alpine:1"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the reader of packets is another goroutine
	if count, _ := n.packets(toUpstream); count == 0 {
		t.Error("no packet of a resolution was counted: the count is wrong")
	}
}
