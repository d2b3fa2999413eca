package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"
	manet "github.com/multiformats/go-multiaddr/net"
)

// streamBase is the base of URLs that go over a libp2p stream; the name means
// nothing to the peer.
const streamBase = "http://peer"

// plainRetry is how long a peer whose HTTP port could not be reached is asked
// over libp2p alone.
const plainRetry = 5 * time.Minute

func (h *Host) httpProtocol() protocol.ID { return h.prefix + "/http/1" }

// serve answers HTTP over libp2p streams: the same handler that serves the
// open port, for peers that cannot reach it.
func (h *Host) serve(handler http.Handler) error {
	l, err := gostream.Listen(h.host, h.httpProtocol(), gostream.IgnoreEOF())
	if err != nil {
		return fmt.Errorf("serving HTTP over libp2p: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /peer", h.serveHello)
	mux.Handle("/", handler)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	h.done.Go(func() {
		// A listener whose host was closed ends with the context's error.
		if err := h.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
			h.config.Log.Error("serving HTTP over libp2p", "error", err)
		}
	})
	return nil
}

func newPlainClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			ResponseHeaderTimeout: 10 * time.Second,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   8,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Peer is another node of this network.
type Peer struct {
	ID     peer.ID
	host   *Host
	stream *http.Client // over libp2p

	mu       sync.Mutex // guards what follows
	said     bool       // it has told who it is
	httpPort int
	plainOff time.Time // until then its HTTP port is not tried
	banned   time.Time // until then it is not asked for content
}

func newPeer(h *Host, id peer.ID) *Peer {
	return &Peer{ID: id, host: h, stream: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return gostream.Dial(ctx, h.host, id, h.httpProtocol())
			},
			ResponseHeaderTimeout: 10 * time.Second,
			IdleConnTimeout:       time.Minute,
			MaxConnsPerHost:       16,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// StreamClient asks the peer over libp2p, at URLs that begin with the second
// result.
func (p *Peer) StreamClient() (*http.Client, string) { return p.stream, streamBase }

func (p *Peer) known() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said
}

func (p *Peer) learn(httpPort int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = true
	if httpPort > 0 && httpPort < 1<<16 {
		p.httpPort = httpPort
	}
}

// Ban keeps the peer from being asked for content for a while.
func (p *Peer) Ban(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.banned = time.Now().Add(d)
}

// Banned tells whether the peer is banned now.
func (p *Peer) Banned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.banned)
}

// Get asks the peer for a path: over plain HTTP where its port is known and
// reachable, else over libp2p. Content is public and checked by digest, so the
// cheap way loses nothing.
func (p *Peer) Get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	if base := p.plainBase(); base != "" {
		resp, err := p.get(ctx, p.host.client, base+path, header)
		if err == nil || ctx.Err() != nil {
			return resp, err
		}
		p.mu.Lock()
		p.plainOff = time.Now().Add(plainRetry)
		p.mu.Unlock()
		p.host.config.Log.Debug("a peer's HTTP port is out of reach, going on over libp2p", "peer", p.ID, "error", err)
	}
	return p.get(ctx, p.stream, path, header)
}

// plainBase is the URL of the peer's HTTP port at the address that it is
// connected from; empty if that is not known, or was not reachable lately.
func (p *Peer) plainBase() string {
	p.mu.Lock()
	port, off := p.httpPort, time.Now().Before(p.plainOff)
	p.mu.Unlock()
	if port == 0 || off {
		return ""
	}
	for _, c := range p.host.host.Network().ConnsToPeer(p.ID) {
		if ip, err := manet.ToIP(c.RemoteMultiaddr()); err == nil {
			return "http://" + net.JoinHostPort(ip.String(), strconv.Itoa(port))
		}
	}
	return ""
}

func (p *Peer) get(ctx context.Context, client *http.Client, url string, header http.Header) (*http.Response, error) {
	if client == p.stream {
		url = streamBase + url
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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
