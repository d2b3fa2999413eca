package p2p

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/multiformats/go-multiaddr"
)

const (
	fastInterval = time.Second      // of keepPeers while peers are being found
	slowInterval = 30 * time.Second // and then
	dialTimeout  = 10 * time.Second
	enoughPeers  = 32
	maxPeersJSON = 64 << 10
	maxExchanged = 64 // peers in one answer
)

// hello is the answer of GET /peer: what a node tells its neighbours.
type hello struct {
	HTTPPort int             `json:"httpPort,omitempty"`
	Peers    []peer.AddrInfo `json:"peers"`
}

// keepPeers connects to the bootstrap nodes, and through them to the others,
// for as long as the node lives. In a network of up to enoughPeers everyone
// knows everyone, and nothing needs a lookup.
func (h *Host) keepPeers(ctx context.Context, bootstrap []peer.AddrInfo) {
	started := time.Now()
	for {
		for _, info := range bootstrap {
			h.connect(ctx, info)
		}
		for _, info := range h.exchange(ctx) {
			if len(h.Peers()) >= enoughPeers {
				break
			}
			h.connect(ctx, info)
		}
		interval := slowInterval
		if time.Since(started) < slowInterval || len(bootstrap) > 0 && len(h.Peers()) == 0 {
			interval = fastInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval/2 + rand.N(interval)):
		}
	}
}

func (h *Host) connect(ctx context.Context, info peer.AddrInfo) {
	if info.ID == h.ID() || h.host.Network().Connectedness(info.ID) == network.Connected {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := h.host.Connect(ctx, info); err != nil {
		h.config.Log.Debug("dialling a peer", "peer", info.ID, "error", err)
	}
}

// exchange asks each peer that has not told it yet who it is, and one at
// random for its newest neighbours.
func (h *Host) exchange(ctx context.Context) (found []peer.AddrInfo) {
	peers := h.Peers()
	random := -1
	if len(peers) > 0 {
		random = rand.IntN(len(peers))
	}
	for i, p := range peers {
		if i != random && p.known() {
			continue
		}
		said, err := p.hello(ctx)
		if err != nil {
			h.config.Log.Debug("asking a peer", "peer", p.ID, "error", err)
			continue
		}
		p.learn(said.HTTPPort)
		found = append(found, said.Peers[:min(len(said.Peers), maxExchanged)]...)
	}
	return found
}

func (p *Peer) hello(ctx context.Context) (*hello, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	resp, err := p.get(ctx, p.stream, "/peer", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("peer %s: %s", p.ID, resp.Status)
	}
	said := new(hello)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxPeersJSON)).Decode(said); err != nil {
		return nil, fmt.Errorf("peer %s: %w", p.ID, err)
	}
	return said, nil
}

// serveHello answers GET /peer.
func (h *Host) serveHello(w http.ResponseWriter, _ *http.Request) {
	said := hello{HTTPPort: h.config.HTTPPort, Peers: []peer.AddrInfo{}}
	for _, p := range h.Peers() {
		addrs := h.host.Peerstore().Addrs(p.ID)
		if len(said.Peers) < maxExchanged && len(addrs) > 0 {
			said.Peers = append(said.Peers, peer.AddrInfo{ID: p.ID, Addrs: addrs[:min(len(addrs), 8)]})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(said) // the peer is gone: nobody to tell
}

// Peers are the connected nodes of this network, in no particular order.
func (h *Host) Peers() []*Peer {
	var out []*Peer
	connected := h.host.Network().Peers()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range connected {
		if p, ok := h.peers[id]; ok {
			out = append(out, p)
			continue
		}
		// Identify tells which protocols the other side speaks.
		if spoken, err := h.host.Peerstore().SupportsProtocols(id, h.httpProtocol()); err == nil && len(spoken) > 0 {
			h.peers[id] = newPeer(h, id)
			out = append(out, h.peers[id])
		}
	}
	for id, p := range h.peers {
		if !slices.Contains(connected, id) {
			p.stream.CloseIdleConnections()
			delete(h.peers, id)
		}
	}
	return out
}

// Peer finds a connected peer.
func (h *Host) Peer(id peer.ID) (*Peer, bool) {
	for _, p := range h.Peers() {
		if p.ID == id {
			return p, true
		}
	}
	return nil, false
}

// remember keeps the addresses of a peer that a DHT lookup found.
func (h *Host) remember(id peer.ID, addrs []multiaddr.Multiaddr) {
	h.host.Peerstore().AddAddrs(id, addrs, peerstore.TempAddrTTL)
}
