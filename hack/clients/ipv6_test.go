package clients

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// A mirror at the loopback address of IPv6, for machines without 127.0.0.1, serves and
// refuses like any other, by a name: containerd 1.6 drops a hosts.toml with the
// address, and pulls from the registry.
func TestMirrorAtIPv6Loopback(t *testing.T) {
	b := startPublisher(t)
	free, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free)
	if b.mirror, err = b.rig.StartMirror(t.Context(), "mirror", "--mirror-addr", net.JoinHostPort("::1", port)); err != nil {
		t.Fatal(err)
	}
	hosts, err := os.ReadFile(b.env.hub.hosts)
	if err == nil {
		err = os.WriteFile(b.env.hub.hosts, append(hosts, "\n::1 ip6-localhost\n"...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("ip6-localhost", port)
	if b.other, err = b.rig.StartMirror(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	b.publish("single:1", image.OCI, 1, 1<<20)
	b.push("unwanted:1", image.OCI, 1, 1<<10)
	for _, c := range []client{
		b.env.containerd(t, "containerd 1.6", b.env.programs, b.rig.Pyrsia, addr, "Strict", ""),
		b.env.containerd(t, "containerd 2.4", b.env.newer, b.rig.Pyrsia, addr, "Strict", ""),
		b.env.dockerd(t, b.rig.Pyrsia, addr),
		b.env.skopeo(t, b.rig.Pyrsia, addr, "Strict"),
		b.env.imagecopy(t, b.rig.Pyrsia, addr, "Strict"),
		b.env.craneAt(t, addr),
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			before := b.env.hub.requests.Load()
			if got, err := b.pull(c, "single:1", 1); got != pulled {
				t.Errorf("%s, %v", got, err)
			}
			if n := b.env.hub.requests.Load() - before; n > 0 {
				t.Errorf("%d requests went to Docker Hub", n)
			}
			if strings.HasPrefix(c.name, "dockerd") {
				return // it goes on to Docker Hub
			}
			if got, err := b.pull(c, "unwanted:1", 1); got != refusal(c) {
				t.Errorf("what is not on the ledger: %s, %v", got, err)
			}
		})
	}
}
