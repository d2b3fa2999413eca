// Package p2p joins a node to the other nodes of its ledger over libp2p:
// identity, discovery, the gossip of checkpoints, and HTTP with each peer. It
// knows neither ledger nor blobs: node gives it functions that check what peers
// say. It may import server, bounded and durable; node and transfer call it.
package p2p

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	lowPeers  = 96
	highPeers = 160
	maxBanned = 4096
	// recent is for how long a new connection is kept beyond highPeers.
	// Lookups, which make most of them, take less.
	recent = 20 * time.Second

	shutdownTimeout = 5 * time.Second
)

// Config says how a node joins its network.
type Config struct {
	KeyFile       string   // of the libp2p identity; made if absent
	PeersFile     string   // of the peers of the last run; empty keeps none
	Listen        []string // multiaddrs
	ExternalAddrs []string // further multiaddrs at which this node is reached
	Bootstrap     []string // multiaddrs with /p2p/ID, /dnsaddr/DOMAIN, or http://HOST:PORT of open ports
	Allow         []string // peer IDs of a closed network; none admits everyone
	Network       string   // the name of the ledger: nodes of another one stay apart
	// Encrypt has content go over libp2p's secured streams alone.
	Encrypt bool
	// NAT makes the node find out whether it can be reached, and if not, use
	// hole punching and other nodes' relays.
	NAT bool
	// HTTPPort is the TCP port at which this node serves peers plain HTTP; 0
	// if it does not.
	HTTPPort int
	// Complete says that the node has all that is published.
	Complete bool
	// Essence extracts the part of a gossiped checkpoint that decides whether
	// Check accepts it; it fails if it is not a checkpoint.
	Essence func(signed []byte) ([]byte, error)
	// Check accepts the essence of a checkpoint that came by gossip.
	Check func(essence []byte) error
	// Holds tells whether the node still has something of an artifact that it
	// announced; the digest is its piece list's.
	Holds func(list digest.Digest) bool
	// Joined is called when a node of this network was connected.
	Joined func()
	// OnCheckpoint is called with the sender of each accepted checkpoint.
	OnCheckpoint func(peer.ID)
	Log          *slog.Logger
}

// Host is this node's place in the network.
type Host struct {
	host   host.Host
	dht    *dht.IpfsDHT
	topic  *pubsub.Topic
	config Config
	prefix protocol.ID // of all protocols of this network
	server *http.Server
	client *http.Client // plain HTTP to peers

	banned *lru.Cache[peer.ID, time.Time] // until when; also of peers that are gone
	wake   chan struct{}                  // keepPeers has something to do

	announcer *announcer
	senders   *senders

	mu     sync.Mutex // guards what follows
	peers  map[peer.ID]*Peer
	former map[peer.ID]peer.AddrInfo // that were connected once
	heard  map[peer.ID]peer.AddrInfo // that a peer has named, to be dialled
	// complete are those of the former that said to have all that is published.
	complete map[peer.ID]bool

	unreached map[string]Unreached // by bootstrap address
	reached   map[string][]peer.ID // likewise, the last time that any node was

	run  context.Context // of everything the host does by itself
	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes a node's place in the network, which it joins by Start.
func New(ctx context.Context, c Config) (*Host, error) {
	key, err := identity(c.KeyFile)
	if err != nil {
		return nil, err
	}
	h := newHost(ctx, c)
	if h.host, err = newLibp2p(key, c, h.infos); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

// newHost makes a host without libp2p's.
func newHost(ctx context.Context, c Config) *Host {
	banned, err := lru.New[peer.ID, time.Time](maxBanned)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	h := &Host{
		config: c, announcer: newAnnouncer(), senders: newSenders(), banned: banned, wake: make(chan struct{}, 1),
		peers: map[peer.ID]*Peer{}, former: map[peer.ID]peer.AddrInfo{}, heard: map[peer.ID]peer.AddrInfo{}, complete: map[peer.ID]bool{}, unreached: map[string]Unreached{}, reached: map[string][]peer.ID{},
		prefix: prefix(c.Network),
		client: newPlainClient(),
	}
	h.run, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	return h
}

// prefix begins the names of all protocols of a network.
func prefix(name string) protocol.ID {
	network := sha256.Sum256([]byte(name))
	return protocol.ID("/pyrsia/" + hex.EncodeToString(network[:8]))
}

// newLibp2p makes a libp2p host that does not listen yet. relays are peers that
// may relay for it.
func newLibp2p(key crypto.PrivKey, c Config, relays func() []peer.AddrInfo) (host.Host, error) {
	conns, err := newConnManager()
	if err != nil {
		return nil, err
	}
	allowed, err := parseAllowed(c.Allow)
	if err != nil {
		return nil, err
	}
	limits, err := resources(prefix(c.Network) + httpName)
	if err != nil {
		return nil, err
	}
	external, err := parseAddrs(c.ExternalAddrs)
	if err != nil {
		return nil, err
	}
	options := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.AddrsFactory(func(own []multiaddr.Multiaddr) []multiaddr.Multiaddr { return slices.Concat(own, external) }),
		libp2p.NoListenAddrs,
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(quic.NewTransport),
		// Noise comes first: it has no certificates that a wrong clock refuses.
		libp2p.Security(noise.ID, noise.New),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(allowed),
		libp2p.ResourceManager(limits),
		// After a hundred failed dials of IPv6, or UDP, on the internet libp2p would try
		// only each hundredth: in a network without IPv4, of which many nodes are gone, a
		// node would find none of the others for minutes.
		libp2p.IPv6BlackHoleSuccessCounter(nil),
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.UserAgent("pyrsia"),
		libp2p.DisableMetrics(),
	}
	if c.NAT {
		options = append(options, natOptions(relays)...)
	} else {
		options = append(options, libp2p.DisableRelay())
	}
	h, err := libp2p.New(options...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting libp2p: %w", err), limits.Close())
	}
	return h, nil
}

// newConnManager bounds the connections.
func newConnManager() (*connmgr.BasicConnMgr, error) {
	conns, err := connmgr.NewConnManager(lowPeers, highPeers, connmgr.WithGracePeriod(recent))
	if err != nil {
		return nil, fmt.Errorf("starting libp2p: %w", err)
	}
	return conns, nil
}

// Start joins the network. handler answers the HTTP requests of peers.
func (h *Host) Start(handler http.Handler) error {
	ctx := h.run
	places, err := parseBootstrap(h.config.Bootstrap)
	if err != nil {
		return err
	}
	h.dht, err = dht.New(small{h.host}, dht.ProtocolPrefix(h.prefix), dht.Mode(dht.ModeServer), dht.DisableValues(),
		dht.ProviderDatastore(newProviderRecords()), dht.ProviderManagerOpts(recordOptions()...))
	if err != nil {
		return fmt.Errorf("starting the DHT: %w", err)
	}
	if err := h.serve(handler); err != nil {
		return err
	}
	if err := h.gossip(ctx); err != nil {
		return err
	}
	if err := h.watch(ctx); err != nil {
		return err
	}
	before, err := readPeers(h.config.PeersFile)
	if err != nil {
		h.config.Log.Warn("the node joins by its bootstrap addresses alone", "error", err)
	}
	for _, info := range before[:min(len(before), maxKnown)] {
		h.former[info.ID] = info
	}
	// Only now, so that peers which connect learn all protocols of this node.
	listen, err := parseAddrs(h.config.Listen)
	if err != nil {
		return err
	}
	if err := h.listen(listen); err != nil {
		return err
	}
	h.done.Go(func() { h.keepPeers(ctx, places) })
	h.done.Go(func() { h.announceAll(ctx) })
	return nil
}

func parseAddrs(addrs []string) (out []multiaddr.Multiaddr, err error) {
	for _, s := range addrs {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %q of this node: %w", s, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// identity reads the node's key, or makes it.
func identity(file string) (crypto.PrivKey, error) {
	data, exists, err := durable.ReadIfThere(file)
	if err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	if exists {
		key, err := crypto.UnmarshalPrivateKey(data)
		if err != nil {
			return nil, fmt.Errorf("libp2p identity %s: %w; remove the file to get a new identity", file, err)
		}
		return key, nil
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	if data, err = crypto.MarshalPrivateKey(key); err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	// Crash before: a new identity at the next start; the old one was never
	// announced.
	if err := durable.WriteSecret(file, data); err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	return key, nil
}

// ID is this node's identity.
func (h *Host) ID() peer.ID { return h.host.ID() }

// Addrs are the addresses at which this node listens, and is said to be reached.
func (h *Host) Addrs() []multiaddr.Multiaddr { return h.host.Addrs() }

// Close leaves the network. Requests of peers under way may end, bounded.
func (h *Host) Close() error {
	h.stop()
	var err error
	if h.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if h.server.Shutdown(ctx) != nil {
			err = h.server.Close()
		}
	}
	h.savePeers()
	h.done.Wait()
	if h.dht != nil {
		err = errors.Join(err, h.dht.Close())
	}
	return errors.Join(err, h.host.Close())
}
