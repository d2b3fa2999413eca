package p2p

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/pyrsia/pyrsia-operator/node/server"
)

// maxServed bounds the streams on which peers are served HTTP.
const maxServed = 512

// streams is a listener of HTTP streams that no peer can keep full: if there are
// too many, the peer with the most loses one. An idle one is closed first,
// because its peer opens another when it needs it.
type streams struct {
	net.Listener
	max int

	mu     sync.Mutex // guards what follows, and the streams' idle
	open   map[*stream]bool
	ofAddr map[netip.Addr]int // open ones
	ofPeer map[peer.ID]int
}

func newStreams(l net.Listener, limit int) *streams {
	return &streams{Listener: l, max: limit, open: map[*stream]bool{}, ofAddr: map[netip.Addr]int{}, ofPeer: map[peer.ID]int{}}
}

// stream is one of them.
type stream struct {
	net.Conn
	all    *streams
	reset  func() error
	addr   netip.Addr // not valid if it is not known
	peer   peer.ID
	opened time.Time
	idle   bool // no request is under way
}

// Accept implements net.Listener.
func (l *streams) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		s := &stream{Conn: c, all: l, opened: time.Now()}
		if over, ok := c.(network.Stream); ok {
			s.reset, s.peer = over.Reset, over.Conn().RemotePeer()
			if ip, err := manet.ToIP(over.Conn().RemoteMultiaddr()); err == nil {
				s.addr, _ = netip.AddrFromSlice(ip)
				s.addr = server.Share(s.addr)
			}
		}
		goes := l.admit(s)
		if goes != nil {
			_ = goes.reset() // it has lost its place
		}
		if goes != s {
			return s, nil
		}
	}
}

// admit gives a stream a place. It returns the stream that has to go instead,
// which may be the new one.
func (l *streams) admit(s *stream) (goes *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(s, 1)
	if len(l.open) <= l.max {
		return nil
	}
	goes = s
	for other := range l.open {
		if other != s && l.sooner(other, goes) {
			goes = other
		}
	}
	l.add(goes, -1)
	return goes
}

// sooner tells whether stream a is to be closed rather than b; the caller holds
// mu. Among equals the older idle one goes, or else the younger one, because it
// has done less.
func (l *streams) sooner(a, b *stream) bool {
	if a.idle != b.idle {
		return a.idle
	}
	age := a.opened.Compare(b.opened)
	if a.idle {
		age = -age
	}
	return cmp.Or(l.ofAddr[a.addr]-l.ofAddr[b.addr], l.ofPeer[a.peer]-l.ofPeer[b.peer], age) > 0
}

// add counts a stream, once; the caller holds mu.
func (l *streams) add(s *stream, n int) {
	if l.open[s] == (n > 0) {
		return
	}
	if n > 0 {
		l.open[s] = true
	} else {
		delete(l.open, s)
	}
	if l.ofAddr[s.addr] += n; l.ofAddr[s.addr] == 0 {
		delete(l.ofAddr, s.addr)
	}
	if l.ofPeer[s.peer] += n; l.ofPeer[s.peer] == 0 {
		delete(l.ofPeer, s.peer)
	}
}

// Close implements net.Conn.
func (s *stream) Close() error {
	s.all.mu.Lock()
	s.all.add(s, -1)
	s.all.mu.Unlock()
	return s.Conn.Close()
}

// noteIdle notes the state of a stream; the server calls it.
func noteIdle(c net.Conn, state http.ConnState) {
	if s, ok := c.(*stream); ok {
		s.all.mu.Lock()
		defer s.all.mu.Unlock()
		s.idle = state == http.StateIdle
	}
}

// withClient says whose share of the node a stream's requests count against.
func withClient(ctx context.Context, c net.Conn) context.Context {
	if s, ok := c.(*stream); ok {
		return server.WithClient(ctx, s.addr)
	}
	return ctx
}
