package p2p

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	"github.com/multiformats/go-multiaddr"
)

// relayInterval is how long after looking for relays a node that has none looks
// again: those that it asked may not know yet that they can relay.
const relayInterval = 10 * time.Second

// natOptions let a node behind a NAT be reached: it asks others whether it can
// be (AutoNAT), opens a port at its router (UPnP, NAT-PMP), holds a place at
// relays, and has a relayed connection replaced by a direct one (DCUtR).
// A node that can be reached relays for others, within libp2p's limits.
func natOptions(relays func() []peer.AddrInfo) []libp2p.Option {
	return []libp2p.Option{
		libp2p.EnableRelay(), // without addresses to listen at, as at first, it would be off
		libp2p.EnableAutoNATv2(),
		libp2p.EnableNATService(), // AutoNAT v1, by which a relay knows that it can be one
		libp2p.NATPortMap(),
		libp2p.EnableRelayService(),
		libp2p.EnableHolePunching(),
		libp2p.EnableAutoRelayWithPeerSource(func(_ context.Context, n int) <-chan peer.AddrInfo {
			infos := relays()
			out := make(chan peer.AddrInfo, n)
			for _, info := range infos[:min(n, len(infos))] {
				out <- info
			}
			close(out)
			return out
		}, autorelay.WithMinCandidates(1), autorelay.WithMinInterval(relayInterval), autorelay.WithBackoff(relayInterval)),
	}
}

// isRelayed tells whether an address leads through a relay.
func isRelayed(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}
