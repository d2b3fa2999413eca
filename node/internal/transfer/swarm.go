package transfer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

const (
	// maxMembers bounds the peers of one download.
	maxMembers = 24
	// lookAgain is how often a download looks for more peers.
	lookAgain = time.Second
	// maxFailures is after how many failures in a row a member backs off.
	maxFailures = 2
	// soon is when unconnected holders are looked up, if no connected peer has
	// offered anything.
	soon = time.Second
)

// swarm is the peers of one download. Each works for itself: it is offered
// pieces that this node lacks, as many as it manages to deliver.
type swarm struct {
	d    *download
	done sync.WaitGroup
	lost atomic.Bool // no peer can deliver now

	mu        sync.Mutex // guards what follows
	members   map[peer.ID]*member
	invited   map[peer.ID]*p2p.Peer // that asked for the same blob, for run to add
	left      map[peer.ID]time.Time // that were dropped for others, and when
	lookingUp bool
	lookedUp  time.Time // when the last lookup ended
	last      error     // of a member that did not deliver
	fatal     error     // of this node: a disk that does not write
}

// run brings the missing pieces.
func (s *swarm) run(ctx context.Context) error {
	s.d.f.awaitPeers(ctx)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	begun := time.Now()
	for {
		s.addInvited(ctx)
		s.add(ctx, s.d.f.network.Peers())
		silent := !s.d.hasSource() && time.Since(begun) > soon
		if (silent || !s.hasAvailable()) && len(s.d.f.network.Peers()) > 0 {
			s.lookUp(ctx)
		}
		s.lost.Store(!s.hasAvailable())
		s.d.mu.Lock()
		left, started, changed := s.d.left, s.d.left < s.d.blob.Count(), s.d.changed
		s.d.mu.Unlock()
		switch idle := s.d.stalled(time.Now()); {
		case left == 0:
			return nil
		case s.failure() != nil:
			return s.failure()
		case s.lost.Load() && (!started || idle > stallTimeout):
			return s.d.f.unavailable(s.d.blob.Digest, s.d.key, s.lastError())
		case idle > stallTimeout:
			return errors.Join(fmt.Errorf("%w: nothing came for %s", ErrUnavailable, stallTimeout), s.lastError())
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add makes peers members, the most promising first. If some do not fit, a piece
// that hardly moves is given up.
func (s *swarm) add(ctx context.Context, peers []*p2p.Peer) {
	ordered := s.d.f.holders.order(s.d.key, peers, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := false
	for _, p := range ordered {
		if time.Since(s.left[p.ID]) > backOffMax && !s.join(ctx, p) {
			waiting = true
		}
	}
	if waiting {
		s.d.f.relieve(time.Now())
	}
}

// addInvited makes peers members that have asked for the same blob.
func (s *swarm) addInvited(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.invited {
		s.join(ctx, p)
	}
	clear(s.invited)
}

// join makes a peer a member, if it may be one; false if the swarm is full. In
// a full swarm a member that does not deliver is replaced. The caller holds mu.
func (s *swarm) join(ctx context.Context, p *p2p.Peer) bool {
	old, ok := s.members[p.ID]
	if ok && old.peer == p || ctx.Err() != nil || p.Banned() {
		return true
	}
	if !ok && len(s.members) >= maxMembers && !s.dropUnavailable() {
		return false
	}
	if ok {
		old.leave() // it went, and came back
	}
	ctx, leave := context.WithCancel(ctx)
	m := &member{s: s, peer: p, wake: make(chan struct{}, 1), leave: leave, available: true}
	s.members[p.ID] = m
	s.done.Go(func() { m.work(ctx, true) })
	return true
}

// dropUnavailable ends a member that does not deliver; false if there is none. The
// caller holds mu.
func (s *swarm) dropUnavailable() bool {
	m := s.unavailable()
	if m == nil {
		return false
	}
	m.leave()
	delete(s.members, m.peer.ID)
	s.left[m.peer.ID] = time.Now()
	return true
}

// unavailable is a member that does not deliver; nil if all do. The caller holds mu.
func (s *swarm) unavailable() *member {
	for _, m := range s.members {
		if !m.available || m.failing {
			return m
		}
	}
	return nil
}

// fails notes that a member did not deliver, and delivered that it did.
func (s *swarm) fails(m *member) {
	s.mu.Lock()
	m.failing = true
	s.mu.Unlock()
	s.changed()
}

func (s *swarm) delivered(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.failing = false
	m.proven.Store(true)
}

// invite is called when a peer asks this node for pieces of the same blob.
func (d *download) invite(id peer.ID) {
	s := &d.swarm
	s.mu.Lock()
	m := s.members[id]
	p, connected := d.f.network.Peer(id)
	fits := m == nil && connected && s.invited[id] != p && (len(s.members) < maxMembers || s.unavailable() != nil)
	if fits {
		s.invited[id] = p
	}
	s.mu.Unlock()
	switch {
	case m != nil:
		select {
		case m.wake <- struct{}{}:
		default: // it is awake
		}
	case fits:
		s.changed() // run adds it
	}
}

// lookUp looks for peers in the background that are not connected yet, unless it
// has done so a moment ago.
func (s *swarm) lookUp(run context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookingUp || time.Since(s.lookedUp) < findTimeout || run.Err() != nil {
		return
	}
	s.lookingUp = true
	s.done.Go(func() {
		ctx, cancel := context.WithTimeout(run, findTimeout)
		defer cancel()
		err := s.d.f.network.Find(ctx, s.d.key, func(p *p2p.Peer) { s.add(run, []*p2p.Peer{p}) })
		s.mu.Lock()
		s.lookingUp, s.lookedUp = false, time.Now()
		if s.last == nil {
			s.last = err
		}
		s.mu.Unlock()
		s.changed()
	})
}

// hasAvailable tells whether some peer may still deliver.
func (s *swarm) hasAvailable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookingUp {
		return true
	}
	for _, m := range s.members {
		if m.available {
			return true
		}
	}
	return false
}

// alone tells whether no other member may deliver.
func (s *swarm) alone(m *member) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.members {
		if other.available && other != m {
			return false
		}
	}
	return true
}

// markUnavailable notes that a member does not deliver for now.
func (s *swarm) markUnavailable(m *member, err error) {
	s.mu.Lock()
	m.available = false
	if err != nil {
		s.last = err
	}
	s.mu.Unlock()
	s.changed()
}

func (s *swarm) markAvailable(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.available = true
}

func (s *swarm) changed() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.notify()
}

func (s *swarm) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// fail ends the download: no peer can help.
func (s *swarm) fail(err error) {
	s.mu.Lock()
	s.fatal = errors.Join(s.fatal, err)
	s.mu.Unlock()
	s.changed()
}

func (s *swarm) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fatal
}
