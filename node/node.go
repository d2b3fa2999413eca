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
	"github.com/pyrsia/pyrsia-operator/node/internal/receipts"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// shutdownTimeout bounds how long pulls under way may go on at the end.
const shutdownTimeout = 20 * time.Second

// Node is a running node: what publishers and mirrors have in common, and the part
// of its role.
type Node struct {
	role

	config   Config
	log      *slog.Logger
	registry *prometheus.Registry
	started  time.Time

	ledger    *replica.Ledger // the verified copy, of either role
	store     *store.Store
	host      *p2p.Host
	news      *news
	fetcher   *transfer.Fetcher // a publisher heals its store by it
	sharing   *transfer.Server
	bandwidth *transfer.Limits
	healer    *mirror.Healer
	withheld  *mirror.Withheld // from peers
	clients   *clients         // nil on a publisher that serves no container clients

	ready       atomic.Bool
	becameReady chan struct{} // closed with the first ready
	onceReady   sync.Once
	disk        disk
	missing     chan digest.Digest // corrupt blobs to fetch again
	servers     []*http.Server
	failed      chan error              // a server that ended by itself
	background  []func(context.Context) // the work of parts, which the method work starts
	stop        context.CancelFunc
	done        sync.WaitGroup
	closers     []func() error // in the order of opening
	close       func() error   // shutdown, once
}

// clients is what answers container clients.
type clients struct {
	mirror   *mirror.Mirror
	receipts *receipts.Book
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
		missing: make(chan digest.Digest, maxMissing), failed: make(chan error, 4),
		becameReady: make(chan struct{}),
		news:        &news{wake: make(chan struct{}, 1)},
		bandwidth:   transfer.NewLimits(transfer.Bandwidth{Upload: c.UploadLimit, Download: c.DownloadLimit, Peer: c.PeerLimit}),
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
	openRole, err := n.openLedger(ctx)
	if err != nil {
		return err
	}
	if err := n.openStore(ctx); err != nil {
		return err
	}
	if err := n.openHost(ctx); err != nil {
		return err
	}
	n.fetcher = transfer.New(n.store, n.host, n.announceContent, n.bandwidth, n.registry, n.log)
	n.closers = append(n.closers, func() error { n.fetcher.Close(); return nil })
	n.withheld = mirror.NewWithheld(n.ledger, n.store, n.log)
	if n.healer, err = mirror.NewHealer(n.ledger, n.fetcher); err != nil {
		return err
	}
	if n.role, err = openRole(); err != nil {
		return err
	}
	// Peers may ask as soon as the host has started.
	n.sharing = transfer.NewServer(n.store, n.fetcher, n.withheld.Check, n.bandwidth, n.registry, n.log)
	if err := n.host.Start(n.peerHandler()); err != nil {
		return err
	}
	n.registerMetrics()
	n.work(run)
	return n.listen(run)
}

// openLedger opens the node's copy of the ledger. What it returns makes the part of
// the role, once all is there that this works with.
func (n *Node) openLedger(ctx context.Context) (openRole func() (role, error), err error) {
	path := filepath.Join(n.config.DataDir, "ledger")
	if n.config.Role == control.Mirror {
		f, err := replica.OpenFollower(ctx, path, n.config.LedgerKey, n.log)
		if err != nil {
			return nil, err
		}
		n.ledger = f.Ledger
		n.closers = append(n.closers, f.Close)
		return func() (role, error) { return n.openMirror(f) }, nil
	}
	skey, err := n.config.signingKey()
	if err != nil {
		return nil, err
	}
	w, err := replica.OpenWriter(ctx, path, skey, n.log)
	if err != nil {
		return nil, err
	}
	n.ledger = w.Ledger
	n.closers = append(n.closers, w.Close)
	return func() (role, error) { return n.openPublisher(w) }, nil
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
		Joined:        n.news.wakeUp,
		// An artifact's piece list is used whenever one of its blobs is, so it
		// leaves the store after them.
		Holds:   n.store.Has,
		Essence: n.ledger.Essence,
		Check: func(essence []byte) error {
			_, err := n.ledger.VerifyCheckpoint(essence)
			return err
		},
		OnCheckpoint: n.news.checkpoint,
		Log:          n.log,
	})
	if err != nil {
		return err
	}
	n.closers = append(n.closers, n.host.Close)
	return nil
}

// openClients makes the part that answers container clients. onMiss is asked for
// what the ledger does not have; nil if nothing more can be done.
func (n *Node) openClients(onMiss func(context.Context, ledger.Image) error) (err error) {
	book := receipts.Open(filepath.Join(n.config.DataDir, "receipts.json"), n.log)
	n.background = append(n.background, book.Run)
	c := mirror.Config{Ledger: n.ledger, Fetcher: n.fetcher, Receipts: book, Metrics: n.registry, Log: n.log, Fallback: n.config.MirrorFallback, OnMiss: onMiss}
	if n.config.AccessLog {
		c.AccessLog = n.log
	}
	if n.config.RefuseStaleTags {
		c.Stale = func() error { return n.refuseStale(time.Now()) }
	}
	m, err := mirror.New(c)
	n.clients = &clients{m, book}
	return err
}

// work starts the node's background work.
func (n *Node) work(run context.Context) {
	scrub := func(ctx context.Context) { n.store.Scrub(ctx, scrubRate, scrubRest) }
	for _, do := range append(n.background, n.announceStore, n.heal, n.withheld.Run, scrub) {
		n.done.Go(func() { do(run) })
	}
	n.start(run)
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
