package transfer

import (
	"context"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

const (
	// maxSending is how many pieces are on offer or being sent at a time. With
	// few in parallel, each soon reaches a peer that can pass it on.
	maxSending = 8
	// maxPerPeer bounds what one peer has of that.
	maxPerPeer = 4
	// offerValid is how long a peer has to fetch what it was offered.
	offerValid = 3 * time.Second
	// fresh is for how long a node that has the whole blob does not offer
	// others a piece that it has sent: they can have it from the receiver. A
	// peer that gets no other offers says so.
	fresh = 10 * time.Second
	// maxServed bounds the blobs of which it is remembered what was sent.
	maxServed = 64
)

// grants decides which piece is offered to whom, so that peers which start
// together get different ones: the piece that was offered least comes first,
// and of those the one nearest to the blob's beginning.
type grants struct {
	connected func(peer.ID) bool

	mu      sync.Mutex // guards what follows
	served  *lru.Cache[digest.Digest, *served]
	lapses  lapses
	open    []*grant      // on offer or being sent
	changed chan struct{} // closed when a grant ends
}

// served is what was offered of one blob.
type served struct {
	times []uint16    // that each piece was offered
	sent  []time.Time // when it was last sent
	to    []peer.ID   // to whom it was last offered
}

type grant struct {
	blob    digest.Digest
	piece   int
	peer    peer.ID
	client  string
	expires time.Time // unless sending
	sending bool
}

// asking is a peer that waits for an offer.
type asking struct {
	blob     digest.Digest
	count    int // pieces of the blob
	peer     peer.ID
	client   string // whose identity the peer is, as server.Client says
	want     pieces.Set
	download *download // of which the pieces come; nil for a blob in the store
	urgent   bool
	alone    bool // it gets no other offers
}

func newGrants(connected func(peer.ID) bool) *grants {
	blobs, err := lru.New[digest.Digest, *served](maxServed)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &grants{connected: connected, served: blobs, lapses: newLapses(), changed: make(chan struct{})}
}

// wait returns the piece that the peer is offered, false if there is none.
func (g *grants) wait(ctx context.Context, ask *asking) (int, bool) {
	timer := time.NewTimer(offerWait)
	defer timer.Stop()
	for {
		var more chan struct{} // closed when there are more pieces
		if ask.download != nil {
			ask.download.mu.Lock()
			more = ask.download.changed
			ask.download.mu.Unlock()
		}
		i, changed, again := g.choose(ask)
		if i >= 0 {
			return i, true
		}
		soon := time.NewTimer(again)
		select {
		case <-more:
		case <-changed:
		case <-soon.C:
		case <-timer.C:
			soon.Stop()
			return 0, false
		case <-ctx.Done():
			soon.Stop()
			return 0, false
		}
		soon.Stop()
	}
}

// choose grants a piece, or -1 and when to ask again at the latest.
func (g *grants) choose(ask *asking) (piece int, changed chan struct{}, again time.Duration) {
	have := func(int) bool { return true }
	if d := ask.download; d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		have = d.have.Has
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.expire(now)
	if wait := g.lapses.wait(ask.client, now); wait > 0 {
		return -1, g.changed, wait
	}
	if !ask.urgent && !g.hasSlot(ask.peer) {
		return -1, g.changed, offerValid
	}
	s := g.blob(ask.blob, ask.count)
	best := -1
	for i := range ask.count {
		if !ask.want.Has(i) || !have(i) || best >= 0 && s.times[i] >= s.times[best] {
			continue
		}
		if ask.urgent || ask.alone || ask.download != nil || s.to[i] == ask.peer || !g.elsewhere(ask.blob, s, i, now) {
			best = i
		}
	}
	if best < 0 {
		return -1, g.changed, offerWait
	}
	s.times[best]++
	s.to[best] = ask.peer
	g.open = append(g.open, &grant{blob: ask.blob, piece: best, peer: ask.peer, client: ask.client, expires: now.Add(offerValid)})
	return best, nil, 0
}

// blob is what was offered of a blob; the caller holds mu.
func (g *grants) blob(d digest.Digest, count int) *served {
	s, ok := g.served.Get(d)
	if !ok {
		s = &served{times: make([]uint16, count), sent: make([]time.Time, count), to: make([]peer.ID, count)}
		g.served.Add(d, s)
	}
	return s
}

// hasSlot tells whether a peer may be offered one more; the caller holds mu.
func (g *grants) hasSlot(id peer.ID) bool {
	own := 0
	for _, o := range g.open {
		if o.peer == id {
			own++
		}
	}
	return len(g.open) < maxSending && own < maxPerPeer
}

// elsewhere tells whether others can get a piece from the peer to which it was
// offered last, because that one is receiving it or has it; the caller holds
// mu.
func (g *grants) elsewhere(blob digest.Digest, s *served, piece int, now time.Time) bool {
	passing := slices.ContainsFunc(g.open, func(o *grant) bool { return o.blob == blob && o.piece == piece })
	return (passing || now.Sub(s.sent[piece]) <= fresh) && g.connected(s.to[piece])
}

// expire ends the offers that were not taken up; the caller holds mu.
func (g *grants) expire(now time.Time) {
	g.remove(func(o *grant) bool {
		lapsed := !o.sending && now.After(o.expires)
		if lapsed {
			g.lapses.add(o.client, now)
		}
		return lapsed
	})
}

func (g *grants) remove(which func(*grant) bool) {
	before := len(g.open)
	g.open = slices.DeleteFunc(g.open, which)
	if len(g.open) < before {
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// decline ends an offer that a peer does not want any more.
func (g *grants) decline(blob digest.Digest, piece int, id peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.remove(func(o *grant) bool { return o.blob == blob && o.piece == piece && o.peer == id && !o.sending })
}

// send notes that a piece is being sent, until the returned function is called
// with whether all of it was sent. The receiver is unknown: over plain HTTP
// peers have no identity.
func (g *grants) send(blob digest.Digest, piece int) (done func(sent bool)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.open {
		if o.blob != blob || o.piece != piece || o.sending {
			continue
		}
		o.sending = true
		return func(sent bool) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if s, ok := g.served.Peek(blob); ok && sent && piece < len(s.sent) {
				s.sent[piece] = time.Now()
				g.lapses.forgive(o.client)
			}
			g.remove(func(other *grant) bool { return other == o })
		}
	}
	return func(bool) {}
}
