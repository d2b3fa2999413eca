// Package p2p joins a node to the other nodes of its ledger over libp2p:
// identity, discovery, the gossip of checkpoints, and HTTP with each peer.
package p2p

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/multiformats/go-multiaddr"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	lowPeers  = 96
	highPeers = 160

	shutdownTimeout = 5 * time.Second
)

// Config says how a node joins its network.
type Config struct {
	KeyFile   string   // of the libp2p identity; made if absent
	Listen    []string // multiaddrs
	Bootstrap []string // multiaddrs with /p2p/ID, also /dns4, /dns6 and /dnsaddr
	LedgerKey string   // names the network: nodes of another ledger stay apart
	// HTTPPort is the TCP port at which this node serves peers plain HTTP; 0
	// if it does not.
	HTTPPort int
	// Check accepts a checkpoint that came by gossip.
	Check func(signed []byte) error
	// Announced is called with each accepted checkpoint and who sent it.
	Announced func(peer.ID)
	Log       *slog.Logger
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

	mu    sync.Mutex // guards peers
	peers map[peer.ID]*Peer

	stop context.CancelFunc
	done sync.WaitGroup
}

// New joins the network. handler answers the HTTP requests of peers.
func New(ctx context.Context, c Config, handler http.Handler) (*Host, error) {
	key, err := identity(c.KeyFile)
	if err != nil {
		return nil, err
	}
	conns, err := connmgr.NewConnManager(lowPeers, highPeers)
	if err != nil {
		return nil, fmt.Errorf("starting libp2p: %w", err)
	}
	lh, err := libp2p.New(
		libp2p.Identity(key),
		libp2p.ListenAddrStrings(c.Listen...),
		libp2p.ConnectionManager(conns),
		libp2p.UserAgent("pyrsia"),
		libp2p.DisableRelay(),
	)
	if err != nil {
		return nil, fmt.Errorf("starting libp2p: %w", err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	network := sha256.Sum256([]byte(c.LedgerKey))
	h := &Host{
		host: lh, config: c, peers: map[peer.ID]*Peer{}, stop: stop,
		prefix: protocol.ID("/pyrsia/" + hex.EncodeToString(network[:8])),
		client: newPlainClient(),
	}
	if err := h.start(run, handler); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) start(ctx context.Context, handler http.Handler) (err error) {
	bootstrap, err := parseBootstrap(h.config.Bootstrap)
	if err != nil {
		return err
	}
	h.dht, err = dht.New(h.host, dht.ProtocolPrefix(h.prefix), dht.Mode(dht.ModeServer), dht.DisableValues())
	if err != nil {
		return fmt.Errorf("starting the DHT: %w", err)
	}
	if err := h.serve(handler); err != nil {
		return err
	}
	if err := h.gossip(ctx); err != nil {
		return err
	}
	h.done.Go(func() { h.keepPeers(ctx, bootstrap) })
	return nil
}

// identity reads the node's key, or makes it.
func identity(file string) (crypto.PrivKey, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		key, err := crypto.UnmarshalPrivateKey(data)
		if err != nil {
			return nil, fmt.Errorf("libp2p identity %s: %w; remove the file to get a new identity", file, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("libp2p identity: %w", err)
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
	// Crash before: a new identity at the next start, which nobody knows yet.
	if err := durable.WriteFile(file, data); err != nil {
		return nil, fmt.Errorf("libp2p identity: %w", err)
	}
	return key, os.Chmod(file, 0o600)
}

func parseBootstrap(addrs []string) (out []peer.AddrInfo, err error) {
	for _, s := range addrs {
		info, err := peer.AddrInfoFromString(s)
		if err != nil {
			return nil, fmt.Errorf("bootstrap address %q: %w; want /dns4/HOST/tcp/4001/p2p/ID or /ip4/ADDRESS/tcp/4001/p2p/ID", s, err)
		}
		out = append(out, *info)
	}
	return out, nil
}

// ID is this node's identity.
func (h *Host) ID() peer.ID { return h.host.ID() }

// Addrs are the addresses at which this node listens.
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
	h.done.Wait()
	if h.dht != nil {
		err = errors.Join(err, h.dht.Close())
	}
	return errors.Join(err, h.host.Close())
}
