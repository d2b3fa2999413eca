package node

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// pollInterval is how often a mirror asks a peer although nobody gossips.
	pollInterval = 10 * time.Second
	// joinInterval is how often it asks until it has a first checkpoint.
	joinInterval   = 250 * time.Millisecond
	syncTimeout    = 10 * time.Minute
	provideTimeout = time.Minute
	// provideAgain is well under the day for which the DHT keeps a record.
	provideAgain = 6 * time.Hour
	maxTold      = 10_000 // announcements remembered
)

// announced is called when a peer gossips a new checkpoint.
func (n *Node) announced(peer.ID) {
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

// announceContent has the network told that this node holds an artifact.
func (n *Node) announceContent(list digest.Digest) {
	select {
	case n.provide <- list:
	default:
		// Peers that are connected find it anyway: they ask.
		n.log.Debug("too much to announce", "list", list)
	}
}

func (n *Node) provideAll(ctx context.Context) {
	told := map[digest.Digest]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case list := <-n.provide:
			if time.Since(told[list]) < provideAgain {
				continue
			}
			if len(told) == maxTold {
				clear(told)
			}
			told[list] = time.Now()
			pctx, cancel := context.WithTimeout(ctx, provideTimeout)
			if err := n.host.Provide(pctx, list); err != nil {
				n.log.Debug("announcing content", "list", list, "error", err)
			}
			cancel()
		}
	}
}
