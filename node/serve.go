package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
	"github.com/pyrsia/pyrsia-operator/node/server"
)

// listen opens the node's ports.
func (n *Node) listen(ctx context.Context) error {
	open := http.NewServeMux()
	if n.config.EncryptTransfers {
		open.Handle("GET /", n.ledger.Handler())
	} else {
		open.Handle("GET /", n.peerHandler())
	}
	open.HandleFunc("GET /peer", n.host.ServeHello)
	open.HandleFunc("GET /api/v1/status", n.serveStatus)
	open.HandleFunc("GET /api/v1/peers", n.servePeers)
	open.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	open.HandleFunc("GET /readyz", n.serveReady)
	open.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	if err := n.serveAt(ctx, "open", n.config.OpenAddr, openBounds, server.Pace(open), nil); err != nil {
		return err
	}
	if n.clients != nil {
		if err := n.serveMirror(ctx); err != nil {
			return err
		}
	}
	if n.config.ControlAddr == "" {
		return nil
	}
	tlsConfig, err := control.ServerTLSFromFiles(n.config.ControlKeyFile, n.config.OperatorKeyFile, n.log)
	if err != nil {
		return err
	}
	return n.serveAt(ctx, "control", n.config.ControlAddr, controlBounds, server.Pace(control.Handler(n)), tlsConfig)
}

func (n *Node) serveMirror(ctx context.Context) error {
	var tlsConfig *tls.Config
	if n.config.MirrorCertFile != "" {
		var err error
		if tlsConfig, err = serverTLS(n.config.MirrorCertFile, n.config.MirrorKeyFile, n.log); err != nil {
			return err
		}
	}
	if socket, ok := strings.CutPrefix(n.config.MirrorAddr, unixPrefix); ok {
		return n.serveSocketProxy(ctx, socket)
	}
	if n.config.MirrorAddr == "" {
		return nil
	}
	handler, err := n.provenMirror()
	if err != nil {
		return err
	}
	return n.serveAt(ctx, "mirror", n.config.MirrorAddr, mirrorBounds, handler, tlsConfig)
}

// provenMirror is the mirror with the proof that its port is this node's, which
// a socket proxy gives in its place if there is one.
func (n *Node) provenMirror() (http.Handler, error) {
	dir := filepath.Join(n.config.DataDir, "frontend")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing the proof of the mirror's port: %w", err)
	}
	secret, err := portproof.Secret(dir)
	if err != nil {
		return nil, err
	}
	proof := portproof.Handler(secret, n.config.MirrorAddr)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == portproof.Path {
			proof.ServeHTTP(w, r)
			return
		}
		n.clients.mirror.ServeHTTP(w, r)
	}), nil
}

// The bounds on the connections of the node's ports.
var (
	// Behind a NAT a whole cluster comes from one address, with up to eight
	// connections of each node; one address must not get all.
	openBounds = server.Bounds{Total: 2048, PerAddress: 512}
	// Container clients are on this machine, and come from one address.
	mirrorBounds = server.Bounds{Total: 4096}
	// Only the operator has the key, with all its workers; connections of
	// others end without it.
	controlBounds = server.Bounds{Total: 4 * control.OperatorConnections, PerAddress: control.OperatorConnections}
)

func (n *Node) serveAt(ctx context.Context, name, addr string, b server.Bounds, handler http.Handler, tlsConfig *tls.Config) error {
	if addr == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	bounded := server.Limit(l, b, n.log)
	n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "pyrsia_connections_refused_total", Help: "Connections that were refused because too many were open, by port.",
		ConstLabels: prometheus.Labels{"port": name},
	}, func() float64 { return float64(bounded.Refused()) }))
	l = bounded
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	n.serveOn(l, addr, handler)
	return nil
}

// serveOn serves until shutdown.
func (n *Node) serveOn(l net.Listener, addr string, handler http.Handler) {
	s := server.New(handler)
	s.Addr = addr
	n.servers = append(n.servers, s)
	n.done.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.failed <- fmt.Errorf("serving %s: %w", addr, err)
		}
	})
}

// peerHandler serves what is open to everyone: the ledger, and content by
// digest. Peers ask it at the open port or over libp2p.
func (n *Node) peerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /", n.ledger.Handler())
	n.sharing.Register(mux)
	return mux
}

func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	if !n.ready.Load() {
		http.Error(w, n.noLedger(), http.StatusServiceUnavailable)
		return
	}
	if err := n.store.Usable(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

func (n *Node) registerMetrics() {
	n.registerAlarmMetrics()
	gauge := func(name, help string, f func() float64) {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("pyrsia_ledger_blocks", "Verified blocks of the ledger.", func() float64 { return float64(n.ledger.Size()) })
	gauge("pyrsia_p2p_peers", "Connected peers of this network.", func() float64 { return float64(len(n.host.Peers())) })
	gauge("pyrsia_store_blobs", "Blobs in the store.", func() float64 { blobs, _ := n.store.Usage(); return float64(blobs) })
	gauge("pyrsia_store_size_bytes", "Bytes in the store.", func() float64 { _, bytes := n.store.Usage(); return float64(bytes) })
	n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "pyrsia_store_corrupt_blobs_total", Help: "Blobs on disk that did not have their digest any more.",
	}, func() float64 { return float64(n.store.Corrupt()) }))
}
