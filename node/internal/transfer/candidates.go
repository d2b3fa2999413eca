package transfer

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

// maxFailures is after how many failures in one transfer a peer is given up.
const maxFailures = 2

// candidates are the peers that one transfer may ask: first the connected
// ones, then, once, those that a lookup finds.
type candidates struct {
	f   *Fetcher
	key digest.Digest

	mu       sync.Mutex // guards what follows
	peers    []*candidate
	lookedUp bool
	last     error // the newest failure
}

type candidate struct {
	peer     *p2p.Peer
	busy     int
	failures int
}

func newCandidates(f *Fetcher, key digest.Digest) *candidates {
	c := &candidates{f: f, key: key}
	peers := f.network.Peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	c.add(peers)
	return c
}

func (c *candidates) add(peers []*p2p.Peer) {
	for _, p := range peers {
		known := slices.ContainsFunc(c.peers, func(o *candidate) bool { return o.peer.ID == p.ID })
		if !known && !p.Banned() {
			c.peers = append(c.peers, &candidate{peer: p})
		}
	}
}

// next gives the usable peer that does the least for this transfer. The
// caller reports by failed or succeeded.
func (c *candidates) next(ctx context.Context) (*p2p.Peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.leastBusy(); p != nil {
		return p, nil
	}
	if !c.lookedUp {
		c.lookedUp = true
		lookup, cancel := context.WithTimeout(ctx, findTimeout)
		defer cancel()
		found, err := c.f.network.Find(lookup, c.key)
		if err != nil {
			c.f.log.Debug("looking for content", "digest", c.key, "error", err)
		}
		c.add(found)
		if p := c.leastBusy(); p != nil {
			return p, nil
		}
	}
	return nil, errors.Join(ErrUnavailable, c.last)
}

func (c *candidates) leastBusy() *p2p.Peer {
	var best *candidate
	for _, o := range c.peers {
		if o.failures < maxFailures && (best == nil || o.busy < best.busy) {
			best = o
		}
	}
	if best == nil {
		return nil
	}
	best.busy++
	return best.peer
}

func (c *candidates) succeeded(p *p2p.Peer) { c.report(p.ID, 0, nil) }

// failed notes why a peer did not deliver. One that sent wrong content is
// banned; one that says it does not have the content is not asked again.
func (c *candidates) failed(p *p2p.Peer, err error) {
	weight := 1
	if bad, ok := errors.AsType[*badContent](err); ok {
		p.Ban(banTime)
		c.f.bad.Inc()
		c.f.log.Warn("a peer sent wrong content and is avoided for a while", "peer", p.ID, "for", banTime.String(), "error", bad)
		weight = maxFailures
	}
	if errors.Is(err, errLacks) {
		weight = maxFailures
	}
	c.report(p.ID, weight, err)
}

func (c *candidates) report(id peer.ID, failures int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.peers {
		if o.peer.ID == id {
			o.busy--
			o.failures += failures
		}
	}
	if err != nil {
		c.last = err
	}
}
