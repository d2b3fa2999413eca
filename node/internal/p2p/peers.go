package p2p

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
)

const (
	fastInterval = time.Second      // of keepPeers while peers are being found
	slowInterval = 15 * time.Second // and then
	dialTimeout  = 10 * time.Second
	dials        = 8 // at a time
	enoughPeers  = 32
	maxKnown     = 256 // nodes that were connected and may be dialled again
	maxPeersJSON = 128 << 10
	maxExchanged = 64 // peers in one answer
	maxAddrs     = 8  // of one peer
	// maxPeersValues bounds the values in one answer: what is exchanged, and the
	// node's own addresses.
	maxPeersValues = 2 * maxExchanged * (4 + maxAddrs)

	identifyTimeout = 200 * time.Millisecond // of await
	punchTimeout    = 3 * time.Second        // for a hole punched, of await
)

// watch follows which nodes are connected. Nodes of other networks, which
// speak none of this one's protocols, are sent away.
func (h *Host) watch(ctx context.Context) error {
	sub, err := h.host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("watching the peers: %w", err)
	}
	h.done.Go(func() {
		defer sub.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-sub.Out():
				h.happened(ctx, e)
			}
		}
	})
	return nil
}

func (h *Host) happened(ctx context.Context, e any) {
	switch e := e.(type) {
	case event.EvtPeerIdentificationCompleted:
		if !slices.Contains(e.Protocols, h.httpProtocol()) {
			h.config.Log.Debug("a node of another network was sent away", "peer", e.Peer, "agent", e.AgentVersion)
			_ = h.host.Network().ClosePeer(e.Peer) // it goes in any case
			return
		}
		// Through a relay, which carries little, it is only on its way to a
		// direct connection: that is identified too.
		if h.host.Network().Connectedness(e.Peer) == network.Connected {
			h.joined(ctx, e.Peer)
		}
	case event.EvtPeerConnectednessChanged:
		if e.Connectedness != network.Connected {
			h.left(e.Peer)
		}
	}
}

func (h *Host) joined(ctx context.Context, id peer.ID) {
	h.mu.Lock()
	p, known := h.peers[id]
	if !known {
		p = newPeer(h, id)
		h.peers[id] = p
	}
	addrs := h.host.Peerstore().Addrs(id)
	if _, ok := h.former[id]; ok || len(h.former) < maxKnown {
		h.former[id] = peer.AddrInfo{ID: id, Addrs: addrs[:min(len(addrs), maxAddrs)]}
	}
	h.mu.Unlock()
	if known {
		return
	}
	h.done.Go(func() {
		h.ask(ctx, p)
		h.config.Joined()
		h.awaken()
	})
}

func (h *Host) left(id peer.ID) {
	h.mu.Lock()
	p, ok := h.peers[id]
	delete(h.peers, id)
	h.mu.Unlock()
	if ok {
		p.stream.CloseIdleConnections()
		h.awaken()
	}
}

func (h *Host) awaken() {
	select {
	case h.wake <- struct{}{}:
	default: // it is awake
	}
}

// ask asks a peer for its identity and the peers that it knows.
func (h *Host) ask(ctx context.Context, p *Peer) {
	said, err := p.hello(ctx)
	if err != nil {
		h.config.Log.Debug("asking a peer", "peer", p.ID, "error", err)
		return
	}
	p.learn(said)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.former[p.ID]; ok && said.Complete {
		h.complete[p.ID] = true
	}
	for _, info := range said.Peers[:min(len(said.Peers), maxExchanged)] {
		if len(h.heard) < maxKnown {
			info.Addrs = slices.Clone(info.Addrs[:min(len(info.Addrs), maxAddrs)])
			h.heard[info.ID] = info
		}
	}
}

// keepPeers connects to the bootstrap nodes, and through them to the others,
// for as long as the node lives. In a network of up to enoughPeers all nodes
// are connected to each other, and nothing needs a lookup.
func (h *Host) keepPeers(ctx context.Context, places []*place) {
	started, next := time.Now(), time.Now()
	saved := time.Now()
	for {
		full := !time.Now().Before(next)
		if full || !time.Now().Before(h.nextJoin(places, next)) {
			h.joinAt(ctx, places)
		}
		if full {
			if peers := h.Peers(); len(peers) > 0 {
				h.ask(ctx, peers[rand.IntN(len(peers))])
			}
		}
		h.dialHeard(ctx, full)
		if full {
			interval := slowInterval
			if time.Since(started) < slowInterval || len(places) > 0 && len(h.Peers()) == 0 {
				interval = fastInterval
			}
			next = time.Now().Add(interval/2 + rand.N(interval))
		}
		if time.Since(saved) > slowInterval {
			h.savePeers()
			saved = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-time.After(time.Until(h.nextJoin(places, next))):
		}
	}
}

// joinAt dials the bootstrap nodes of the places that are due. Enough peers are
// no reason to stop, because all of them may be strangers that withhold the
// ledger: each place without a connected node is tried anyway.
func (h *Host) joinAt(ctx context.Context, places []*place) {
	enough := len(h.Peers()) >= enoughPeers
	var group errgroup.Group
	group.SetLimit(dials)
	for _, p := range places {
		if time.Now().Before(p.next) || enough && !h.lost(p) {
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			infos, err := p.peers(ctx)
			if err != nil {
				h.config.Log.Debug("finding first peers", "error", err)
			}
			var reached []peer.ID
			for _, info := range infos {
				if cerr := h.connect(ctx, info, dialTimeout); cerr != nil {
					err = errors.Join(err, cerr)
				} else {
					reached = append(reached, info.ID) // also itself
				}
			}
			if len(reached) > 0 {
				err = nil
			}
			if !errors.Is(ctx.Err(), context.Canceled) { // else the node ends
				h.tried(p, reached, err)
			}
			return nil
		})
	}
	_ = group.Wait() // none returns an error
}

// nextJoin is when joinAt has something to do before its time: a node that was
// reached is gone.
func (h *Host) nextJoin(places []*place, next time.Time) time.Time {
	for _, p := range places {
		if len(p.reached) > 0 && p.next.Before(next) && h.lost(p) {
			next = p.next
		}
	}
	return next
}

// dialHeard dials nodes that others have named, and, once in a while, some of
// those that were connected before.
func (h *Host) dialHeard(ctx context.Context, again bool) {
	h.mu.Lock()
	var infos []peer.AddrInfo
	for _, info := range h.heard {
		infos = append(infos, info)
	}
	clear(h.heard)
	if again {
		left := dials // at a time: they may be gone for good
		for id, info := range h.former {
			if _, connected := h.peers[id]; !connected && left > 0 {
				infos = append(infos, info)
				left--
			}
		}
	}
	capacity := enoughPeers - len(h.peers)
	h.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(dials)
	for _, info := range infos[:max(0, min(len(infos), capacity))] {
		group.Go(func() error { _ = h.connect(ctx, info, dialTimeout); return nil }) // it has said so
	}
	_ = group.Wait() // none returns an error
}

func (h *Host) connect(ctx context.Context, info peer.AddrInfo, timeout time.Duration) error {
	if info.ID == h.ID() || h.host.Network().Connectedness(info.ID) == network.Connected {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := h.host.Connect(ctx, info)
	if err != nil {
		h.config.Log.Debug("dialling a peer", "peer", info.ID, "error", err)
	}
	return err
}

// await finds a peer whose connection is new: that it belongs to this network
// is known a moment later, and a relayed connection may become a direct one.
func (h *Host) await(ctx context.Context, id peer.ID) (*Peer, bool) {
	for started := time.Now(); ; {
		if p, ok := h.Peer(id); ok {
			return p, true
		}
		timeout := identifyTimeout
		switch h.host.Network().Connectedness(id) {
		case network.Connected:
		case network.Limited:
			timeout = punchTimeout
		default:
			return nil, false
		}
		if time.Since(started) > timeout || !sleep(ctx, 10*time.Millisecond) {
			return nil, false
		}
	}
}

// helloPath is where a node tells its identity.
const helloPath = "/peer"

// hello is the answer to GET /peer, for neighbours and at the open port.
type hello struct {
	Self     peer.AddrInfo `json:"self"`
	HTTPPort int           `json:"httpPort,omitempty"`
	// Complete says that the node has all that is published: a hint, which
	// need not be true.
	Complete bool            `json:"complete,omitempty"`
	Peers    []peer.AddrInfo `json:"peers"`
}

func (p *Peer) hello(ctx context.Context) (*hello, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	// A stream that is kept open costs both sides two goroutines and four
	// buffers: with many peers that is most of what an idle node has.
	resp, err := p.do(ctx, p.stream, http.MethodGet, streamBase+helloPath, http.Header{"Connection": {"close"}}, nil)
	if err != nil {
		return nil, err
	}
	said, err := readHello(resp)
	if err != nil {
		return nil, fmt.Errorf("peer %s: %w", p.ID, err)
	}
	return said, nil
}

func readHello(resp *http.Response) (*hello, error) {
	defer resp.Body.Close()
	said := new(hello)
	if resp.StatusCode != http.StatusOK {
		return said, errors.New(resp.Status)
	}
	return said, decodePeers(resp.Body, said)
}

// decodePeers decodes what is said about peers.
func decodePeers(r io.Reader, out any) error {
	data, err := io.ReadAll(io.LimitReader(r, maxPeersJSON+1))
	if err != nil {
		return err
	}
	if len(data) > maxPeersJSON {
		return fmt.Errorf("more than %d bytes about peers", maxPeersJSON)
	}
	return bounded.Unmarshal(data, maxPeersValues, out)
}

// ServeHello answers GET /peer.
func (h *Host) ServeHello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(hello{ // the peer is gone
		Self: peer.AddrInfo{ID: h.ID(), Addrs: h.host.Addrs()}, HTTPPort: h.config.HTTPPort,
		Complete: h.config.Complete, Peers: h.infos(),
	})
}

// infos are connected peers and their addresses, of a large network some.
func (h *Host) infos() []peer.AddrInfo {
	out := []peer.AddrInfo{}
	for _, p := range h.Peers() {
		addrs := h.host.Peerstore().Addrs(p.ID)
		if len(out) < maxExchanged && len(addrs) > 0 {
			out = append(out, peer.AddrInfo{ID: p.ID, Addrs: addrs[:min(len(addrs), maxAddrs)]})
		}
	}
	return out
}

// Peers are the connected nodes of this network, in no particular order.
func (h *Host) Peers() []*Peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*Peer, 0, len(h.peers))
	for _, p := range h.peers {
		out = append(out, p)
	}
	return out
}

// Peer finds a connected peer.
func (h *Host) Peer(id peer.ID) (*Peer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.peers[id]
	return p, ok
}
