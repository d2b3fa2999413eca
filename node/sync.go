package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	// pollInterval is how often a mirror asks a peer when no gossip arrives.
	pollInterval = 10 * time.Second
	// joinInterval is after what time a mirror without a checkpoint asks again. The
	// interval doubles each time, up to maxJoinInterval; a new peer wakes it.
	joinInterval    = 250 * time.Millisecond
	maxJoinInterval = 5 * time.Second
	// syncTimeout bounds one sync; what it has fetched is kept.
	syncTimeout  = 2 * time.Minute
	maxWitnesses = 16               // that are asked about a new key, beside those that are configured
	slowFor      = 10 * time.Minute // how long a slow source is asked after the others
)

// source is a node or server from which a mirror copies the ledger.
type source struct {
	name string // the peer's ID, or the URL
	*client.Client
}

// String names the source in evidence.
func (s source) String() string { return s.name }

// reachable are all that can be asked now.
func (n *Node) reachable() (out []source) {
	for _, p := range n.host.Peers() {
		h, base := p.StreamClient()
		out = append(out, source{p.ID.String(), client.New(base, h)})
	}
	for _, url := range n.config.LedgerURLs {
		out = append(out, source{url, client.New(url, n.plain)})
	}
	return out
}

// witnesses are asked about a key to which the ledger is handed over: all
// configured nodes, which a crowd of strangers cannot displace, even before they
// are connected, and a few others in random order.
func (n *Node) witnesses() (out []torchwood.TileReader) {
	configured := slices.Clone(n.config.LedgerURLs)
	for _, id := range n.host.Bootstrapped() {
		configured = append(configured, id.String())
	}
	late := map[string]source{}
	for _, b := range n.config.Bootstrap {
		if strings.HasPrefix(b, "http://") {
			out = append(out, source{b, client.New(b, n.plain)})
		} else if info, err := peer.AddrInfoFromString(b); err == nil && info.ID != n.host.ID() {
			h, base := n.host.LateClient(info.ID)
			late[info.ID.String()] = source{info.ID.String(), client.New(base, h)}
		}
	}
	var others []torchwood.TileReader
	for _, s := range n.reachable() {
		if _, ok := late[s.name]; ok || slices.Contains(configured, s.name) {
			out = append(out, s)
			delete(late, s.name)
		} else {
			others = append(others, s)
		}
	}
	for _, s := range late {
		out = append(out, s)
	}
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return append(out, others[:min(len(others), maxWitnesses)]...)
}

// onCheckpoint is called when a peer gossips a new checkpoint.
func (n *Node) onCheckpoint(p peer.ID) {
	name := p.String()
	n.lastSender.Store(&name)
	n.wakeUp()
}

// wakeUp makes the mirror ask for the ledger: a peer gossiped a new checkpoint,
// or has just been connected.
func (n *Node) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default: // it is awake
	}
}

// follow keeps the mirror's copy of the ledger up to date.
func (n *Node) follow(ctx context.Context) {
	n.rounds.run(ctx)
}

// newRounds are the mirror's questions for the ledger.
func (n *Node) newRounds() *rounds {
	return &rounds{ask: n.syncFrom, list: n.reachable, wake: n.wake, pause: n.pause,
		first: func() string {
			if name := n.lastSender.Swap(nil); name != nil {
				return *name
			}
			return ""
		},
	}
}

// pause is called when all sources were asked, and tells when to ask again.
func (n *Node) pause() time.Duration {
	if _, ok := n.ledger.Head(); ok {
		n.setReady()
		n.warnStale()
		return pollInterval
	}
	n.complain(time.Now())
	n.joining = min(max(2*n.joining, joinInterval), maxJoinInterval)
	return n.joining
}

func (n *Node) syncFrom(ctx context.Context, s source) (grown bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	before := n.ledger.Size()
	grown, err = n.follower.Sync(ctx, s)
	switch {
	case errors.Is(err, replica.ErrRetiredKey), errors.Is(err, replica.ErrTwoSuccessors):
		n.log.Error("a key of the ledger is in the wrong hands: see 'pyrsia evidence'", "alarm", true, "peer", s.name, "error", err)
	case errors.Is(err, replica.ErrForked), errors.Is(err, replica.ErrRolledBack):
		n.log.Error("the publisher has signed what contradicts the verified ledger: see 'pyrsia evidence'", "alarm", true, "peer", s.name, "error", err)
	case err != nil && ctx.Err() == nil:
		n.log.Debug("asking a peer for the ledger", "peer", s.name, "error", err)
	case grown:
		n.log.Info("ledger verified", "blocks", n.ledger.Size(), "new", n.ledger.Size()-before, "peer", s.name)
		n.setReady()
	}
	return grown, err
}

// spread gossips each new checkpoint of the publisher.
func (n *Node) spread(ctx context.Context) {
	for {
		changed := n.ledger.Changed()
		if head, ok := n.ledger.Head(); ok {
			if err := n.host.Gossip(ctx, head.Signed); err != nil && ctx.Err() == nil {
				n.log.Warn("gossiping a checkpoint", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
