package p2p

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// bootstrap is one place where a node finds its first peers. A name is resolved
// each time, because the nodes behind it change.
type bootstrap interface {
	peers(ctx context.Context) ([]peer.AddrInfo, error)
}

// maxResolved bounds the addresses that one name leads to: a node may have two.
const maxResolved = 64

// Open ports are asked side by side, and each is given up early: where one family of
// addresses leads nowhere, half of them do not answer.
const (
	askedAtOnce = 32
	askTimeout  = 3 * time.Second
)

// maxReached bounds the nodes of one bootstrap address that are not given up
// for others.
const maxReached = 4

// place is a bootstrap address as it was given. keepPeers owns it.
type place struct {
	bootstrap
	addr    string
	fails   int       // in a row
	next    time.Time // not tried before
	reached []peer.ID // there, the last time
}

// Unreached is a bootstrap address at which no node was reached the last time.
type Unreached struct {
	Addr  string
	Err   error
	Since time.Time
	Tries int
}

// maxPlaceWait bounds how long a bootstrap address that fails is left alone.
const maxPlaceWait = 5 * time.Second

// tried notes which nodes were reached at a place, or why none was. After a
// failure the place is left alone for a while, twice as long each time.
func (h *Host) tried(p *place, reached []peer.ID, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.keep(p, slices.DeleteFunc(reached, func(id peer.ID) bool { return id == h.ID() }))
		p.fails, p.next = 0, time.Now().Add(fastInterval)
		delete(h.unreached, p.addr)
		return
	}
	p.fails++
	p.next = time.Now().Add(min(fastInterval<<min(p.fails-1, 8), maxPlaceWait))
	u, ok := h.unreached[p.addr]
	if !ok {
		u.Addr, u.Since = p.addr, time.Now()
	}
	u.Err, u.Tries = err, p.fails
	h.unreached[p.addr] = u
}

// keep has libp2p keep the connections with the nodes that were reached at a
// place, however many others there are.
func (h *Host) keep(p *place, reached []peer.ID) {
	reached = reached[:min(len(reached), maxReached)]
	for _, id := range p.reached {
		h.host.ConnManager().Unprotect(id, p.addr)
	}
	for _, id := range reached {
		h.host.ConnManager().Protect(id, p.addr)
	}
	p.reached = reached
	h.reached[p.addr] = reached
}

// lost tells whether none of the nodes is connected that were reached at a place.
func (h *Host) lost(p *place) bool {
	return !slices.ContainsFunc(p.reached, func(id peer.ID) bool { return h.host.Network().Connectedness(id) == network.Connected })
}

// Unreached are the bootstrap addresses at which no node is reached.
func (h *Host) Unreached() []Unreached {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.unreached), func(a, b Unreached) int { return strings.Compare(a.Addr, b.Addr) })
}

func parseBootstrap(addrs []string) (out []*place, err error) {
	for _, s := range addrs {
		b, err := parseOne(s)
		if err != nil {
			return nil, fmt.Errorf("bootstrap address %q: %w; want /dns/HOST/tcp/4001/p2p/ID, /ip4/ADDRESS/tcp/4001/p2p/ID, /dnsaddr/DOMAIN, or http://HOST:PORT of open ports", s, err)
		}
		out = append(out, &place{bootstrap: b, addr: s})
	}
	return out, nil
}

func parseOne(s string) (bootstrap, error) {
	if strings.HasPrefix(s, "http://") {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		if u.Port() == "" || strings.Trim(u.Path, "/") != "" {
			return nil, errors.New("a host and a port, and nothing else")
		}
		return openPorts{u.Hostname(), u.Port()}, nil
	}
	addr, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return nil, err
	}
	if info, err := peer.AddrInfoFromP2pAddr(addr); err == nil {
		return fixed(*info), nil
	}
	if first, _ := multiaddr.SplitFirst(addr); first != nil && first.Protocol().Code == multiaddr.P_DNSADDR {
		return dnsaddr{addr}, nil
	}
	return nil, errors.New("it names no peer: /p2p/ID is missing")
}

// fixed is a node with a known identity; libp2p resolves its name.
type fixed peer.AddrInfo

func (f fixed) peers(context.Context) ([]peer.AddrInfo, error) {
	return []peer.AddrInfo{peer.AddrInfo(f)}, nil
}

// dnsaddr is a domain whose TXT records name nodes
// (github.com/multiformats/multiaddr, "dnsaddr").
type dnsaddr struct{ addr multiaddr.Multiaddr }

func (d dnsaddr) peers(ctx context.Context) ([]peer.AddrInfo, error) {
	addrs, err := madns.DefaultResolver.Resolve(ctx, d.addr)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", d.addr, err)
	}
	return peer.AddrInfosFromP2pAddrs(addrs[:min(len(addrs), maxResolved)]...)
}

// openPorts is a name each of whose addresses is a node's open port, such as
// a headless Service. What such a node says of itself need not be believed:
// the connection proves that it has the identity it claims.
type openPorts struct{ host, port string }

func (o openPorts) peers(ctx context.Context) ([]peer.AddrInfo, error) {
	ips, err := net.DefaultResolver.LookupHost(ctx, o.host)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", o.host, err)
	}
	return o.ask(ctx, ips[:min(len(ips), maxResolved)])
}

// ask asks the nodes at the addresses for their identities, and names each node
// once.
func (o openPorts) ask(ctx context.Context, ips []string) (out []peer.AddrInfo, err error) {
	client := newPlainClient()
	defer client.CloseIdleConnections()
	infos, errs := make([]peer.AddrInfo, len(ips)), make([]error, len(ips)) // each goroutine owns one
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for i, ip := range ips {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			infos[i], errs[i] = askOpenPort(ctx, client, "http://"+net.JoinHostPort(ip, o.port))
			return nil
		})
	}
	_ = group.Wait() // none returns an error
	for i, info := range infos {
		known := slices.ContainsFunc(out, func(other peer.AddrInfo) bool { return other.ID == info.ID })
		switch {
		case errs[i] != nil:
			err = errs[i]
		case !known:
			out = append(out, info)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("asking the nodes at %s: %w", o.host, err)
	}
	return out, nil
}

func askOpenPort(ctx context.Context, client *http.Client, base string) (peer.AddrInfo, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+helloPath, nil)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	said, err := readHello(resp)
	return said.Self, err
}

// readPeers reads the peers of an earlier run; none if there was none, or if
// the file cannot be parsed.
func readPeers(file string) (out []peer.AddrInfo, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) || file == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("peers of the last run: %w", err)
	}
	defer f.Close()
	if err := decodePeers(f, &out); err != nil {
		return nil, fmt.Errorf("peers of the last run, %s: %w", file, err)
	}
	return out, nil
}

// savePeers keeps the peers for the next start, which may find the nodes that
// it joined by gone.
func (h *Host) savePeers() {
	if h.config.PeersFile == "" {
		return
	}
	infos := h.infos()
	if len(infos) == 0 {
		return
	}
	data, err := json.Marshal(infos)
	if err == nil {
		// Not synced. Crash: the old list or the new; after a power cut perhaps
		// an empty one, and the node joins by its bootstrap addresses.
		err = durable.Replace(h.config.PeersFile, data)
	}
	if err != nil {
		h.config.Log.Warn("keeping the peers for the next start", "error", err)
	}
}
