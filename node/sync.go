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

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// pollInterval is how often a mirror asks a peer although nobody gossips.
	pollInterval = 10 * time.Second
	// joinInterval is how often it asks until it has a first checkpoint.
	joinInterval = 250 * time.Millisecond
	// syncTimeout bounds one sync; what it has fetched by then is kept.
	syncTimeout = 2 * time.Minute
	// syncPatience is after how long the next source is asked too.
	syncPatience = time.Second
	maxSyncs     = 8                // at once
	maxWitnesses = 16               // that are asked about a new key
	slowFor      = 10 * time.Minute // how long a slow source is asked after the others
)

// source is somebody from whom a mirror copies the ledger.
type source struct {
	name string // the peer's ID, or the URL
	*ledger.Source
}

// String names the source in evidence.
func (s source) String() string { return s.name }

// reachable are all that can be asked now.
func (n *Node) reachable() (out []source) {
	for _, p := range n.host.Peers() {
		client, base := p.StreamClient()
		out = append(out, source{p.ID.String(), ledger.NewSource(base, client)})
	}
	for _, url := range n.config.LedgerURLs {
		out = append(out, source{url, ledger.NewSource(strings.TrimSuffix(url, "/"), n.plain)})
	}
	return out
}

// sources are all that can be asked now, in random order: those first that
// have just announced something, those last that were slow.
func (n *Node) sources(slow map[string]time.Time) []source {
	out := n.reachable()
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	first := n.announcer.Swap(nil)
	rank := func(s source) int {
		switch {
		case time.Since(slow[s.name]) < slowFor:
			return 2
		case first == nil || s.name != *first:
			return 1
		default:
			return 0
		}
	}
	slices.SortStableFunc(out, func(a, b source) int { return rank(a) - rank(b) })
	return out
}

// witnesses are asked what they know of a key to which the ledger is handed over:
// a few in random order.
func (n *Node) witnesses() (out []torchwood.TileReader) {
	for _, s := range n.reachable() {
		out = append(out, s)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(len(out), maxWitnesses)]
}

// announced is called when a peer gossips a new checkpoint.
func (n *Node) announced(p peer.ID) {
	name := p.String()
	n.announcer.Store(&name)
	n.wakeUp()
}

// wakeUp has the mirror ask for the ledger: a peer gossiped a new checkpoint,
// or has just been connected.
func (n *Node) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default: // it is awake
	}
}

// follow keeps the mirror's copy of the ledger up to date. One source after
// the other is asked; the next one already when one takes its time.
func (n *Node) follow(ctx context.Context) {
	ended := make(chan source)
	busy := map[string]time.Time{} // since when a source is being asked
	slow := map[string]time.Time{} // when it was that a source had no time left
	end := func(s source) {
		if time.Since(busy[s.name]) >= syncTimeout {
			slow[s.name] = time.Now()
		}
		delete(busy, s.name)
	}
	for ctx.Err() == nil {
		for _, s := range n.sources(slow) {
			if _, asked := busy[s.name]; asked || len(busy) == maxSyncs {
				continue
			}
			busy[s.name] = time.Now()
			go func() { n.syncFrom(ctx, s); ended <- s }()
			for impatient, waiting := time.After(syncPatience), true; waiting; {
				select {
				case done := <-ended:
					end(done)
					waiting = done.name != s.name
				case <-impatient:
					waiting = false
				}
			}
		}
		interval := pollInterval
		if _, ok := n.ledger.Head(); ok {
			n.setReady()
			n.warnStale()
		} else {
			interval = joinInterval
		}
		for next, waiting := time.After(interval), true; waiting; {
			select {
			case <-ctx.Done():
				waiting = false
			case <-n.wake:
				waiting = false
			case <-next:
				waiting = false
			case done := <-ended:
				end(done)
			}
		}
	}
	for len(busy) > 0 { // bounded: their context has ended
		end(<-ended)
	}
}

func (n *Node) syncFrom(ctx context.Context, s source) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	before := n.ledger.Size()
	grown, err := n.follower.Sync(ctx, s)
	switch {
	case errors.Is(err, ledger.ErrForked), errors.Is(err, ledger.ErrRolledBack):
		n.log.Error("ALARM: the publisher has signed what contradicts the verified ledger: see 'pyrsia evidence'", "peer", s.name, "error", err)
	case errors.Is(err, ledger.ErrRetiredKey), errors.Is(err, ledger.ErrTwoSuccessors):
		n.log.Error("ALARM: a key of the ledger is in the wrong hands: see 'pyrsia evidence'", "peer", s.name, "error", err)
	case err != nil && ctx.Err() == nil:
		n.log.Debug("asking a peer for the ledger", "peer", s.name, "error", err)
	case grown:
		n.log.Info("ledger verified", "blocks", n.ledger.Size(), "new", n.ledger.Size()-before, "peer", s.name)
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
