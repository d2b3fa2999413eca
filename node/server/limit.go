package server

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bounds are on the connections of one port.
type Bounds struct {
	Total int
	// PerAddress is for one address; 0 is no bound beside Total. An IPv6 network of 64
	// bits, in which one host takes as many addresses as it likes, gets at most half of
	// Total. That is more than one address gets, because all pods of a cluster may be
	// in one such network: otherwise one pod could starve the others.
	PerAddress int
}

// logInterval is how often it is said at most that connections are refused.
const logInterval = time.Minute

// Listener enforces its bounds by closing the connections beyond them.
type Listener struct {
	net.Listener
	bounds Bounds
	log    *slog.Logger

	mu      sync.Mutex // guards what follows
	open    int
	of      map[netip.Prefix]int // open ones, by address and by IPv6 network
	refused int64
	logged  time.Time
}

// Limit bounds the connections of l.
func Limit(l net.Listener, b Bounds, log *slog.Logger) *Listener {
	return &Listener{Listener: l, bounds: b, log: log, of: map[netip.Prefix]int{}}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(c)
		if !l.admit(from) {
			_ = c.Close() // it is refused
			continue
		}
		release := sync.OnceFunc(func() { l.release(from) })
		if tcp, ok := c.(*net.TCPConn); ok {
			return &tcpConn{tcp, release}, nil
		}
		return &conn{c, release}, nil
	}
}

// Refused is how many connections were refused.
func (l *Listener) Refused() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

func (l *Listener) admit(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, around := places(from)
	if l.open < l.bounds.Total && (l.bounds.PerAddress == 0 || !from.IsValid() ||
		l.of[own] < l.bounds.PerAddress && l.of[around] < max(l.bounds.PerAddress, l.bounds.Total/2)) {
		l.open++
		l.count(from, 1)
		return true
	}
	l.refused++
	if time.Since(l.logged) > logInterval {
		l.logged = time.Now()
		l.log.Warn("connections are refused: too many are open", "port", l.Addr().String(),
			"open", l.open, "at most", l.bounds.Total, "from", from.String(), "open from there", l.of[own], "at most from one address", l.bounds.PerAddress)
	}
	return false
}

func (l *Listener) release(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.count(from, -1)
}

// count counts the connections of an address; the caller holds mu.
func (l *Listener) count(from netip.Addr, n int) {
	own, around := places(from)
	for _, place := range []netip.Prefix{own, around} {
		if !place.IsValid() {
			continue
		}
		if l.of[place] += n; l.of[place] == 0 {
			delete(l.of, place)
		}
	}
}

// places returns an address and the IPv6 network around it; the network is not valid
// for IPv4.
func places(a netip.Addr) (own, around netip.Prefix) {
	if !a.IsValid() {
		return own, around
	}
	if a.Is6() {
		around = network(a)
	}
	return netip.PrefixFrom(a, a.BitLen()), around
}

// addressOf is the address that is counted; it is not valid if it is not an IP
// address.
func addressOf(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// tcpConn is a *net.TCPConn for net/http too: it sends files by the kernel.
type tcpConn struct {
	*net.TCPConn
	release func()
}

func (c *tcpConn) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}

type conn struct {
	net.Conn
	release func()
}

func (c *conn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
