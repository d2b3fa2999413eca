package p2p

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/test"
	"github.com/multiformats/go-multiaddr"
)

// Of an IPv6 network of 64 bits, which one host may have for itself, as many
// connections are let in as leave half for others, and of a cluster whose pods are all
// in one at least as many as the node keeps.
func TestConnectionsOfOneNetworkAreBounded(t *testing.T) {
	t.Parallel()
	const inbound = maxConns * 3 / 4
	for name, tt := range map[string]struct {
		from        func(i int) string
		least, most int
	}{
		"one IPv4 address":          {func(int) string { return "/ip4/192.0.2.1" }, maxConnsPerIP, maxConnsPerIP},
		"one IPv6 address":          {func(int) string { return "/ip6/2a00:77::1" }, maxConnsPerIP, maxConnsPerIP},
		"one network":               {func(i int) string { return fmt.Sprintf("/ip6/2a00:77::%x", i+1) }, highPeers + 1, inbound / 2},
		"one network of a cluster":  {func(i int) string { return fmt.Sprintf("/ip6/fd00:10:244:1::%x", i+1) }, highPeers + 1, inbound / 2},
		"a network of 56 bits":      {func(i int) string { return fmt.Sprintf("/ip6/2a00:77:0:%x::1", i%256) }, highPeers + 1, inbound * 2 / 3},
		"this machine":              {func(int) string { return "/ip6/::1" }, inbound, inbound},
		"many networks of 56 bits":  {func(i int) string { return fmt.Sprintf("/ip6/2a00:77:%x::1", i) }, inbound, inbound},
		"pods with IPv4's, private": {func(i int) string { return fmt.Sprintf("/ip4/10.244.%d.%d", i/250, 1+i%250) }, inbound, inbound},
	} {
		m, err := resources("/test/http/1")
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for i := range 2 * inbound {
			conn, err := m.OpenConnection(network.DirInbound, false, multiaddr.StringCast(tt.from(i)+"/tcp/4001"))
			if err != nil {
				continue
			}
			if err := conn.SetPeer(test.RandPeerIDFatal(t)); err != nil { // until then it has no peer, and few such connections are allowed
				t.Fatalf("%s: connection %d: %v", name, i, err)
			}
			got++
		}
		if got < tt.least || got > tt.most {
			t.Errorf("%s: %d connections are let in, want %d to %d", name, got, tt.least, tt.most)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
