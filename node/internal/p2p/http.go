package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/pyrsia/pyrsia-operator/node/server"
)

// streamBase is the base of URLs that go over a libp2p stream; the name means
// nothing to the peer.
const streamBase = "http://peer"

// plainRetry is how long a peer whose HTTP port could not be reached, or from
// where something else came than what was asked for, is asked over libp2p alone.
const plainRetry = 5 * time.Minute

// plainDial bounds how long its HTTP port is tried before: it is on the same
// address as the connection to the peer.
const plainDial = time.Second

// httpName ends the name of the protocol for HTTP over a stream.
const httpName = "/http/1"

func (h *Host) httpProtocol() protocol.ID { return h.prefix + httpName }

// serve answers HTTP over libp2p streams: the same handler that serves the
// open port, for peers that cannot reach it.
func (h *Host) serve(handler http.Handler) error {
	l, err := gostream.Listen(h.host, h.httpProtocol())
	if err != nil {
		return fmt.Errorf("serving HTTP over libp2p: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+helloPath, h.ServeHello)
	mux.Handle("/", handler)
	h.server = server.New(server.Pace(mux))
	h.server.BaseContext = func(net.Listener) context.Context { return h.run }
	h.server.ConnContext = withClient
	h.server.ConnState = noteIdle
	h.done.Go(func() {
		// A listener whose host was closed ends with the context's error.
		if err := h.server.Serve(newStreams(l, maxServed)); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
			h.config.Log.Error("serving HTTP over libp2p", "error", err)
		}
	})
	return nil
}

func newPlainClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: plainDial}).DialContext,
			ResponseHeaderTimeout: 10 * time.Second,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   8,
			DisableCompression:    true, // a kilobyte that is compressed can be a megabyte
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Peer is another node of this network.
type Peer struct {
	ID       peer.ID
	host     *Host
	stream   *http.Client // over libp2p
	received atomic.Int64 // verified bytes of content

	mu       sync.Mutex // guards what follows
	httpPort int        // 0 until it has told
	relayed  bool       // it is reached through relays: behind a NAT
	complete bool       // it says that it has all that is published
	plainOff time.Time  // until then its HTTP port is not tried
	avoided  time.Time  // until then others are asked first
}

func newPeer(h *Host, id peer.ID) *Peer {
	return &Peer{ID: id, host: h, stream: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := gostream.Dial(ctx, h.host, id, h.httpProtocol())
				if err != nil {
					return nil, err
				}
				return parting{conn}, nil
			},
			ResponseHeaderTimeout: 10 * time.Second,
			IdleConnTimeout:       time.Minute,
			MaxConnsPerHost:       64,
			MaxIdleConnsPerHost:   16,
			DisableCompression:    true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// parting is a stream that is closed in the background. If a peer hangs, libp2p
// would wait 10 s for its part of the handshake, and net/http for libp2p.
type parting struct{ net.Conn }

func (p parting) Close() error {
	go func() { _ = p.Conn.Close() }() // bounded by libp2p
	return nil
}

// StreamClient asks the peer over libp2p, at URLs that begin with the second
// result.
func (p *Peer) StreamClient() (*http.Client, string) { return p.stream, streamBase }

func (p *Peer) learn(said *hello) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if said.HTTPPort > 0 && said.HTTPPort < 1<<16 {
		p.httpPort = said.HTTPPort
	}
	p.relayed = slices.ContainsFunc(said.Self.Addrs, isRelayed)
	p.complete = said.Complete
}

// Ban keeps the peer from being asked for content for a while, even if it
// disconnects and comes back.
func (p *Peer) Ban(d time.Duration) { p.host.banned.Add(p.ID, time.Now().Add(d)) }

// Banned tells whether the peer is banned now.
func (p *Peer) Banned() bool {
	until, ok := p.host.banned.Get(p.ID)
	return ok && time.Now().Before(until)
}

// Avoid has other peers asked before this one for a while.
func (p *Peer) Avoid(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.avoided = time.Now().Add(d)
}

// Avoided tells whether other peers are asked first now.
func (p *Peer) Avoided() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.avoided)
}

// Complete tells whether the peer says that it has all that is published.
func (p *Peer) Complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.complete
}

// Connected tells whether this is the peer that is connected now: a peer that
// went and came back is another.
func (p *Peer) Connected() bool {
	now, ok := p.host.Peer(p.ID)
	return ok && now == p
}

// Post sends the peer a small body over libp2p, where each side knows the
// other's identity.
func (p *Peer) Post(ctx context.Context, path string, header http.Header, body io.Reader) (*http.Response, error) {
	return p.do(ctx, p.stream, http.MethodPost, streamBase+path, header, body)
}

// Get asks the peer for a path: over plain HTTP where its port is known and
// reachable, else over libp2p. Content is public and checked by digest, so the
// cheap way loses nothing. Only over libp2p is it certain that the peer itself
// sent the answer: secure says so.
func (p *Peer) Get(ctx context.Context, path string, header http.Header) (resp *http.Response, secure bool, err error) {
	if base := p.plainBase(); base != "" {
		resp, err := p.do(ctx, p.host.client, http.MethodGet, base+path, header, nil)
		if err == nil || ctx.Err() != nil {
			return resp, false, err
		}
		p.AvoidPlain()
		p.host.config.Log.Debug("a peer's HTTP port is out of reach, going on over libp2p", "peer", p.ID, "error", err)
	}
	resp, err = p.do(ctx, p.stream, http.MethodGet, streamBase+path, header, nil)
	return resp, true, err
}

// AvoidPlain makes this node ask the peer only over libp2p for a while.
func (p *Peer) AvoidPlain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plainOff = time.Now().Add(plainRetry)
}

// plainBase is the URL of the peer's HTTP port at the address that it is
// connected from; empty if that is not known, is its NAT's, or was not
// reachable lately.
func (p *Peer) plainBase() string {
	p.mu.Lock()
	port, relayed, off := p.httpPort, p.relayed, time.Now().Before(p.plainOff)
	p.mu.Unlock()
	if port == 0 || off || p.host.config.Encrypt {
		return ""
	}
	for _, c := range p.conns() {
		if relayed && manet.IsPublicAddr(c.RemoteMultiaddr()) {
			continue
		}
		if ip, err := manet.ToIP(c.RemoteMultiaddr()); err == nil {
			return "http://" + net.JoinHostPort(ip.String(), strconv.Itoa(port))
		}
	}
	return ""
}

// conns are the peer's connections that go through no relay.
func (p *Peer) conns() []network.Conn {
	return slices.DeleteFunc(p.host.host.Network().ConnsToPeer(p.ID), func(c network.Conn) bool { return c.Stat().Limited })
}

func (p *Peer) do(ctx context.Context, client *http.Client, method, url string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, fmt.Errorf("asking peer %s: %w", p.ID, err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking peer %s: %w", p.ID, err)
	}
	return resp, nil
}
