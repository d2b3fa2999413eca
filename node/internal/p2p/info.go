package p2p

import (
	"strings"
	"time"
)

// Info is what is known of a peer, for people.
type Info struct {
	Addr      string        // the multiaddr that it is connected at
	Direction string        // inbound or outbound
	Latency   time.Duration // smoothed; 0 until it was measured
	Since     time.Time
	Via       string // how content comes from it: http or libp2p
	Received  int64  // verified bytes
	State     string // ok, slow or banned
}

// Info describes the peer.
func (p *Peer) Info() Info {
	info := Info{Via: "libp2p", State: "ok", Received: p.received.Load(), Latency: p.host.host.Peerstore().LatencyEWMA(p.ID)}
	if p.plainBase() != "" {
		info.Via = "http"
	}
	switch {
	case p.Banned():
		info.State = "banned"
	case p.Avoided():
		info.State = "slow"
	}
	for _, c := range p.conns() {
		info.Addr, info.Since = c.RemoteMultiaddr().String(), c.Stat().Opened.UTC()
		info.Direction = strings.ToLower(c.Stat().Direction.String())
		break
	}
	return info
}

// Delivered notes verified bytes that came from the peer.
func (p *Peer) Delivered(bytes int) { p.received.Add(int64(bytes)) }
