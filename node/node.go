package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/mirror"
	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/prefetch"
	"github.com/pyrsia/pyrsia-operator/node/internal/publish"
	"github.com/pyrsia/pyrsia-operator/node/internal/receipts"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// shutdownTimeout bounds how long pulls under way may go on at the end.
const shutdownTimeout = 20 * time.Second

// Node is a running node.
type Node struct {
	config   Config
	log      *slog.Logger
	registry *prometheus.Registry
	store    *store.Store
	plain    *http.Client // to LedgerURLs

	ledger    *replica.Ledger   // the verified copy, of either role
	writer    *replica.Writer   // publishers
	follower  *replica.Follower // mirrors
	host      *p2p.Host
	publisher *publish.Publisher // publishers
	fetcher   *transfer.Fetcher  // a publisher heals its store by it
	sharing   *transfer.Server
	bandwidth *transfer.Limits
	started   time.Time
	healer    *mirror.Healer
	withheld  *mirror.Withheld     // from peers
	mirror    *mirror.Mirror       // mirrors
	prefetch  *prefetch.Prefetcher // of mirrors with patterns
	receipts  *receipts.Book       // of nodes that serve container clients

	ready       atomic.Bool
	becameReady chan struct{} // closed with the first ready
	onceReady   sync.Once
	wasStale    atomic.Bool
	disk        disk
	wake        chan struct{}          // a peer has a new checkpoint, or has just been connected
	lastSender  atomic.Pointer[string] // the peer that gossiped one last
	missing     chan digest.Digest     // corrupt blobs to fetch again
	servers     []*http.Server
	rounds      *rounds       // mirrors
	joining     time.Duration // owned by rounds: how long it waited last for a first checkpoint
	complaint   complaint
	failed      chan error // a server that ended by itself
	stop        context.CancelFunc
	done        sync.WaitGroup
	closers     []func() error // in the order of opening
	close       func() error   // shutdown, once
}

// Run runs a node until ctx ends, and then ends it gracefully.
func Run(ctx context.Context, c Config) error {
	n, err := Start(ctx, c)
	if err != nil {
		return err
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-n.failed:
	}
	return errors.Join(failure, n.Close())
}

// Start starts a node. It lives until Close.
func Start(ctx context.Context, c Config) (*Node, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	n := &Node{
		config: c, log: c.Logger, started: time.Now(), registry: prometheus.NewRegistry(),
		wake: make(chan struct{}, 1), missing: make(chan digest.Digest, maxMissing), failed: make(chan error, 4),
		becameReady: make(chan struct{}),
		plain:       &http.Client{Timeout: syncTimeout},
	}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.close = sync.OnceValue(n.shutdown)
	if err := n.open(ctx, run); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open(ctx, run context.Context) (err error) {
	if err := n.openLedger(ctx); err != nil {
		return err
	}
	if err := n.openStore(ctx); err != nil {
		return err
	}
	if err := n.openHost(ctx); err != nil {
		return err
	}
	if err := n.openRole(); err != nil {
		return err
	}
	// Peers may ask as soon as the host has started.
	n.sharing = transfer.NewServer(n.store, n.fetcher, n.limits(), n.registry, n.log)
	n.sharing.Withhold = n.withheld.Check
	if err := n.host.Start(n.peerHandler()); err != nil {
		return err
	}
	n.registerMetrics()
	n.work(run)
	return n.listen(run)
}

func (n *Node) openLedger(ctx context.Context) error {
	path := filepath.Join(n.config.DataDir, "ledger")
	if n.config.Role == control.Mirror {
		f, err := replica.OpenFollower(ctx, path, n.config.LedgerKey, n.log)
		if err != nil {
			return err
		}
		n.follower, n.ledger = f, f.Ledger
		n.rounds = n.newRounds()
		f.Others = n.witnesses
		n.closers = append(n.closers, f.Close)
		return nil
	}
	skey, err := n.config.signingKey()
	if err != nil {
		return err
	}
	w, err := replica.OpenWriter(ctx, path, skey, n.log)
	if err != nil {
		return err
	}
	n.writer, n.ledger = w, w.Ledger
	n.closers = append(n.closers, w.Close)
	return nil
}

// openHost makes the node's place in the peer-to-peer network.
func (n *Node) openHost(ctx context.Context) (err error) {
	external, err := n.config.externalAddrs(ownAddresses)
	if err != nil {
		return err
	}
	n.host, err = p2p.New(ctx, p2p.Config{
		KeyFile:       filepath.Join(n.config.DataDir, "identity.key"),
		PeersFile:     filepath.Join(n.config.DataDir, "peers.json"),
		Listen:        n.config.P2PListen,
		ExternalAddrs: external,
		Bootstrap:     n.config.Bootstrap,
		Allow:         n.config.AllowPeers,
		Network:       n.ledger.Origin(),
		Encrypt:       n.config.EncryptTransfers,
		NAT:           n.config.NAT,
		HTTPPort:      n.httpPort(),
		Complete:      n.config.Role == control.Publisher,
		Joined:        n.wakeUp,
		// An artifact's piece list is used whenever one of its blobs is, so it
		// leaves the store after them.
		Holds:   n.store.Has,
		Essence: n.ledger.Essence,
		Check: func(essence []byte) error {
			_, err := n.ledger.VerifyCheckpoint(essence)
			return err
		},
		OnCheckpoint: n.onCheckpoint,
		Log:          n.log,
	})
	if err != nil {
		return err
	}
	n.closers = append(n.closers, n.host.Close)
	return nil
}

func (n *Node) openRole() (err error) {
	n.fetcher = transfer.New(n.store, n.host, n.announceContent, n.limits(), n.registry, n.log)
	n.closers = append(n.closers, func() error { n.fetcher.Close(); return nil })
	n.withheld = mirror.NewWithheld(n.ledger, n.store, n.log)
	if n.healer, err = mirror.NewHealer(n.ledger, n.fetcher); err != nil {
		return err
	}
	if n.config.Role == control.Publisher {
		if err := n.openPublisher(); err != nil {
			return err
		}
		if n.config.MirrorAddr == "" {
			return nil
		}
	}
	n.receipts = receipts.Open(filepath.Join(n.config.DataDir, "receipts.json"), n.log)
	c := mirror.Config{Ledger: n.ledger, Fetcher: n.fetcher, Receipts: n.receipts, Metrics: n.registry, Log: n.log, Fallback: n.config.MirrorFallback}
	if n.config.AccessLog {
		c.AccessLog = n.log
	}
	if n.config.RefuseStaleTags {
		c.Stale = func() error { return n.refuseStale(time.Now()) }
	}
	if len(n.config.OnPullAllow) > 0 {
		c.OnMiss = n.publishOnPull
	}
	if len(n.config.Prefetch) > 0 {
		n.openPrefetch()
	}
	n.mirror, err = mirror.New(c)
	return err
}

// work starts the node's background work.
func (n *Node) work(run context.Context) {
	n.done.Go(func() { n.announceStore(run) })
	n.done.Go(func() { n.heal(run) })
	n.done.Go(func() { n.withheld.Run(run) })
	n.done.Go(func() { n.store.Scrub(run, scrubRate, scrubRest) })
	if n.prefetch != nil {
		n.done.Go(func() { n.prefetch.Run(run) })
	}
	if n.receipts != nil {
		n.done.Go(func() { n.receipts.Run(run) })
	}
	if n.config.Role == control.Publisher {
		if n.config.Bucket != "" {
			n.done.Go(func() { n.store.Backup(run) })
		}
		n.done.Go(func() { n.spread(run) })
		n.setReady()
		return
	}
	n.done.Go(func() { n.follow(run) })
}

// Close ends the node: pulls under way may end, bounded.
func (n *Node) Close() error { return n.close() }

func (n *Node) shutdown() error {
	n.ready.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	errs := make([]error, len(n.servers))
	var servers sync.WaitGroup
	for i, s := range n.servers {
		servers.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				errs[i] = errors.Join(fmt.Errorf("ending %s: %w", s.Addr, err), s.Close())
			}
		})
	}
	servers.Wait()
	n.stop()
	n.done.Wait()
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i]())
	}
	return errors.Join(errs...)
}

// port is the port of HOST:PORT, or 0.
func port(addr string) int {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if addr == "" || err != nil {
		return 0
	}
	return a.Port
}
