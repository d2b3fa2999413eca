package p2p

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
)

const (
	maxConns        = 512
	maxConnsPerPeer = 8
	maxConnsPerIP   = 64 // several nodes may share an address
	// maxConnsPerNetwork is for an IPv6 network of 64 bits, in which one host can take
	// any number of addresses: half of what others may open. It is more than
	// highPeers, at which connections are trimmed, because all pods of a cluster may
	// be in one such network and would be locked out otherwise.
	maxConnsPerNetwork = maxConns * 3 / 8
	connsPerSecond     = 1 // of one address, after a burst of maxConnsPerIP
	// maxStreams bounds the streams, and maxInbound those that peers have opened:
	// the rest is the node's own, whatever they do.
	maxStreams = 2560
	maxInbound = 1792
	// maxPeerStreams bounds the streams with one peer, and maxPeerInbound those
	// that it has opened: of them at most maxPeerServed for HTTP, and of each
	// other protocol as many as a node needs that connects anew.
	maxPeerStreams  = 160
	maxPeerInbound  = 96
	maxPeerServed   = 80
	maxPeerProtocol = 4
	// streamMemory is what libp2p counts for a stream, in bytes, although most
	// never use it. Where that is refused the whole connection ends, so there is
	// enough for all streams, and as much for those that need more.
	streamMemory = 2 * (256 << 10)
	maxMemory    = 128 << 20 // bytes, by which libp2p scales all other bounds
)

// allowList admits the peers of a closed network. An empty one admits all.
type allowList map[peer.ID]bool

var _ connmgr.ConnectionGater = allowList(nil)

func parseAllowed(ids []string) (allowList, error) {
	out := allowList{}
	for _, s := range ids {
		id, err := peer.Decode(s)
		if err != nil {
			return nil, fmt.Errorf("allowed peer %q: %w; want a peer ID, which begins with 12D3KooW", s, err)
		}
		out[id] = true
	}
	return out, nil
}

func (a allowList) allows(id peer.ID) bool { return len(a) == 0 || a[id] }

// InterceptPeerDial implements connmgr.ConnectionGater.
func (a allowList) InterceptPeerDial(id peer.ID) bool { return a.allows(id) }

// InterceptAddrDial implements connmgr.ConnectionGater.
func (a allowList) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

// InterceptAccept implements connmgr.ConnectionGater: the peer's identity is not
// known yet.
func (a allowList) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements connmgr.ConnectionGater.
func (a allowList) InterceptSecured(_ network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	return a.allows(id)
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (a allowList) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// resources bounds what peers can make libp2p hold.
func resources(http protocol.ID) (network.ResourceManager, error) {
	base := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&base)
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConns * 3 / 4, ConnsOutbound: maxConns, FD: maxConns,
			Streams: maxStreams, StreamsInbound: maxInbound, StreamsOutbound: maxStreams, Memory: maxStreams * streamMemory,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxConnsPerPeer, ConnsInbound: maxConnsPerPeer, ConnsOutbound: maxConnsPerPeer,
			Streams: maxPeerStreams, StreamsInbound: maxPeerInbound, StreamsOutbound: maxPeerStreams, Memory: maxPeerStreams * streamMemory,
		},
		ProtocolPeerDefault: rcmgr.ResourceLimits{StreamsInbound: maxPeerProtocol},
		// Those that are too many are ended by the server, which looks whose they are.
		Protocol:     map[protocol.ID]rcmgr.ResourceLimits{http: {StreamsInbound: 2 * maxServed}},
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{http: {StreamsInbound: maxPeerServed}},
	}.Build(base.Scale(maxMemory, maxConns))
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits), rcmgr.WithLimitPerSubnet(
		[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: maxConnsPerIP}},
		[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 128, ConnCount: maxConnsPerIP}, {PrefixLength: 64, ConnCount: maxConnsPerNetwork},
			{PrefixLength: 56, ConnCount: 4 * maxConnsPerIP}},
	), rcmgr.WithNetworkPrefixLimit([]rcmgr.NetworkPrefixLimit{
		{Network: netip.MustParsePrefix("127.0.0.0/8"), ConnCount: math.MaxInt},
	}, nil), rcmgr.WithConnRateLimiters(connRates()))
	if err != nil {
		return nil, fmt.Errorf("bounding libp2p: %w", err)
	}
	return m, nil
}

// connRates bounds how often connections are opened, by either side: a burst of as many
// as may be open, and then connsPerSecond of an address. libp2p's own bound on an IPv6
// network of 56 bits, which all pods of a cluster may be in, is a burst of 16 and then
// one in 5 s: most of them would wait for minutes to join.
func connRates() *rate.Limiter {
	of := func(bits, burst int) rate.SubnetLimit {
		return rate.SubnetLimit{PrefixLength: bits, Limit: rate.Limit{RPS: connsPerSecond * float64(burst) / maxConnsPerIP, Burst: burst}}
	}
	return &rate.Limiter{
		NetworkPrefixLimits: []rate.PrefixLimit{ // without a bound
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")},
		},
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{of(32, maxConnsPerIP)},
			IPv6SubnetLimits: []rate.SubnetLimit{of(128, maxConnsPerIP), of(64, maxConnsPerNetwork), of(56, 4*maxConnsPerIP)},
			GracePeriod:      time.Minute,
		},
	}
}
