package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"filippo.io/torchwood"
	"github.com/cenkalti/backoff/v5"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/internal/prefetch"
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

// mirrorRole is a mirror's part of a node: it follows the ledger.
type mirrorRole struct {
	notPublishing
	n        *Node
	follower *replica.Follower
	plain    *http.Client // to LedgerURLs
	rounds   *rounds

	// What follows is owned by rounds.
	joining   *backoff.ExponentialBackOff // until the first checkpoint
	wasStale  bool
	complaint complaint
}

// openMirror makes the part of a mirror.
func (n *Node) openMirror(f *replica.Follower) (role, error) {
	m := &mirrorRole{
		n: n, follower: f, plain: &http.Client{Timeout: syncTimeout},
		joining: &backoff.ExponentialBackOff{InitialInterval: joinInterval, Multiplier: 2, MaxInterval: maxJoinInterval},
	}
	m.rounds = newRounds(m.syncFrom, m.reachable, n.news.first, m.pause, n.news.wake)
	f.Others = m.witnesses
	if len(n.config.Prefetch) > 0 {
		// It takes at most half of the cache: the other half is for what clients ask for.
		fetch := prefetch.New(prefetch.Config{
			Patterns: n.config.Prefetch, Platform: runtime.GOOS + "/" + runtime.GOARCH, Budget: n.config.CacheSize / 2,
			Ledger: n.ledger, Fetcher: n.fetcher, Store: n.store, Metrics: n.registry, Log: n.log,
		})
		n.background = append(n.background, fetch.Run)
	}
	return m, n.openClients(nil)
}

// start keeps the mirror's copy of the ledger up to date.
func (m *mirrorRole) start(run context.Context) { m.n.done.Go(func() { m.rounds.run(run) }) }

func (m *mirrorRole) failing() map[string]standing { return m.rounds.failing() }

// reachable are all that can be asked now.
func (m *mirrorRole) reachable() (out []source) {
	for _, p := range m.n.host.Peers() {
		h, base := p.StreamClient()
		out = append(out, source{p.ID.String(), client.New(base, h)})
	}
	for _, url := range m.n.config.LedgerURLs {
		out = append(out, source{url, client.New(url, m.plain)})
	}
	return out
}

// witnesses are asked about a key to which the ledger is handed over: all
// configured nodes, which a crowd of strangers cannot displace, even before they
// are connected, and a few others in random order.
func (m *mirrorRole) witnesses() (out []torchwood.TileReader) {
	configured := slices.Clone(m.n.config.LedgerURLs)
	for _, id := range m.n.host.Bootstrapped() {
		configured = append(configured, id.String())
	}
	late := map[string]source{}
	for _, b := range m.n.config.Bootstrap {
		if strings.HasPrefix(b, "http://") {
			out = append(out, source{b, client.New(b, m.plain)})
		} else if info, err := peer.AddrInfoFromString(b); err == nil && info.ID != m.n.host.ID() {
			h, base := m.n.host.LateClient(info.ID)
			late[info.ID.String()] = source{info.ID.String(), client.New(base, h)}
		}
	}
	var others []torchwood.TileReader
	for _, s := range m.reachable() {
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

// news is what peers have announced, for a mirror that follows the ledger.
type news struct {
	wake   chan struct{}          // a peer has a new checkpoint, or has just been connected
	sender atomic.Pointer[string] // the peer that gossiped one last
}

// checkpoint is called when a peer gossips a new checkpoint.
func (w *news) checkpoint(p peer.ID) {
	name := p.String()
	w.sender.Store(&name)
	w.wakeUp()
}

// wakeUp makes the mirror ask for the ledger: a peer gossiped a new checkpoint,
// or has just been connected.
func (w *news) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default: // it is awake
	}
}

// first is, once, the peer that gossiped last; empty if none has since.
func (w *news) first() string {
	if name := w.sender.Swap(nil); name != nil {
		return *name
	}
	return ""
}

// pause is called when all sources were asked, and tells when to ask again.
func (m *mirrorRole) pause() time.Duration {
	if _, ok := m.n.ledger.Head(); ok {
		m.n.setReady()
		m.warnStale()
		return pollInterval
	}
	m.complain(time.Now())
	return m.joining.NextBackOff()
}

func (m *mirrorRole) syncFrom(ctx context.Context, s source) (grown bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	n, before := m.n, m.n.ledger.Size()
	grown, err = m.follower.Sync(ctx, s)
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
