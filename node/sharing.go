package node

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// announceContent has the network told that this node holds something of an
// artifact.
func (n *Node) announceContent(list digest.Digest) { n.host.Announce(list) }

// announceStore announces what the store held when the node started.
func (n *Node) announceStore(ctx context.Context) {
	for d := range n.store.Beginning([]byte(pieces.Prefix), pieces.MaxList) {
		if ctx.Err() != nil {
			return
		}
		n.host.Announce(d)
	}
	if n.config.Bucket != "" {
		n.announceBucket(ctx)
	}
}

// httpPort is the port at which peers reach this node by plain HTTP; 0 if they
// must not, or if it is for this machine alone.
func (n *Node) httpPort() int {
	if n.config.EncryptTransfers {
		return 0
	}
	return port(n.config.OpenAddr)
}

func (n *Node) serveStatus(w http.ResponseWriter, _ *http.Request) {
	s := client.Status{
		Role: string(n.config.Role), Version: Version, PeerID: n.host.ID().String(), Ready: n.ready.Load(),
		Uptime: time.Since(n.started).Seconds(), Peers: len(n.host.Peers()),
		Ledger: n.ledger.Origin(), Blocks: n.ledger.Size(), LedgerKey: n.ledger.NewestKey(),
	}
	for _, a := range n.host.Addrs() {
		s.Addrs = append(s.Addrs, a.String())
	}
	s.Blobs, s.Bytes = n.store.Usage()
	s.Artifacts, s.Announced = n.host.Announced()
	s.Downloads, s.Queued = n.fetcher.Queue()
	if n.clients != nil {
		s.Asked = n.clients.mirror.Asked().Registries
	}
	s.Problems = n.problems()
	writeJSON(w, s)
}

func (n *Node) servePeers(w http.ResponseWriter, _ *http.Request) {
	out := []client.Peer{}
	for _, p := range n.host.Peers() {
		info := p.Info()
		out = append(out, client.Peer{
			ID: p.ID.String(), Addr: info.Addr, Direction: info.Direction, Latency: info.Latency.Seconds(),
			Since: info.Since, Via: info.Via, Received: info.Received, State: info.State,
		})
	}
	writeJSON(w, out)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}
