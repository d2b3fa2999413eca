package node

import (
	"context"
	"errors"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// pollInterval is how often a mirror asks a peer although nobody gossips.
	pollInterval = 10 * time.Second
	// joinInterval is how often it asks until it has a first checkpoint.
	joinInterval = 250 * time.Millisecond
	syncTimeout  = 10 * time.Minute
)

// wakeUp has the mirror ask for the ledger: a peer gossiped a new checkpoint,
// or has just been connected.
func (n *Node) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default: // it is awake
	}
}

// follow keeps the mirror's copy of the ledger up to date.
func (n *Node) follow(ctx context.Context) {
	for {
		for _, p := range n.host.Peers() {
			n.syncFrom(ctx, p)
		}
		_, ok := n.ledger.Head()
		interval := pollInterval
		if ok {
			n.ready.Store(true)
		} else {
			interval = joinInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-time.After(interval):
		}
	}
}

func (n *Node) syncFrom(ctx context.Context, p *p2p.Peer) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	client, base := p.StreamClient()
	before := n.ledger.Size()
	grown, err := n.follower.Sync(ctx, ledger.NewSource(base, client))
	switch {
	case errors.Is(err, ledger.ErrForked):
		n.log.Error("ALARM: the publisher has signed a ledger that contradicts the verified one; the evidence is kept", "peer", p.ID, "error", err)
	case err != nil && ctx.Err() == nil:
		n.log.Debug("asking a peer for the ledger", "peer", p.ID, "error", err)
	case grown:
		n.log.Info("ledger verified", "blocks", n.ledger.Size(), "new", n.ledger.Size()-before, "peer", p.ID)
	}
}

// spread gossips each new checkpoint of the publisher.
func (n *Node) spread(ctx context.Context) {
	for {
		changed := n.ledger.Changed()
		if head, ok := n.ledger.Head(); ok {
			if err := n.host.Announce(ctx, head.Signed); err != nil && ctx.Err() == nil {
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
