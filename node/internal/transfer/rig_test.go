package transfer

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// testPeer is a node without a ledger: a place in a network over loopback, a
// store, and both sides of a transfer.
type testPeer struct {
	*Fetcher
	host     *p2p.Host
	plain    string // URL
	dir      string
	registry *prometheus.Registry
	close    func()
}

// setUp changes what newPeer makes.
type setUp struct {
	dir       string // of the store
	store     store.Config
	bandwidth Bandwidth
	// libp2p and plain stand before the handler of each way; plain is served
	// at all only if it is set.
	libp2p, plain func(http.Handler) http.Handler
	join          []*testPeer
}

func asItIs(h http.Handler) http.Handler { return h }

func newPeer(t testing.TB, c setUp) *testPeer {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	if c.dir == "" {
		c.dir = t.TempDir()
	}
	c.store.Log = log
	s, err := store.Open(c.dir, c.store)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	port, plain := 0, ""
	if c.plain != nil {
		server := httptest.NewServer(c.plain(mux))
		t.Cleanup(server.Close)
		plain = server.URL
		port = int(netip.MustParseAddrPort(server.Listener.Addr().String()).Port())
	}
	var bootstrap []string
	for _, p := range c.join {
		bootstrap = append(bootstrap, p.host.Addrs()[0].String()+"/p2p/"+p.host.ID().String())
	}
	host, err := p2p.New(t.Context(), p2p.Config{
		KeyFile: filepath.Join(t.TempDir(), "key"), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: bootstrap,
		Network: "transfer", HTTPPort: port,
		Essence: func(b []byte) ([]byte, error) { return b, nil }, Check: func([]byte) error { return nil },
		Holds: s.Has, Joined: func() {}, OnCheckpoint: func(peer.ID) {}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &testPeer{host: host, plain: plain, dir: c.dir, registry: prometheus.NewRegistry()}
	limits := NewLimits(c.bandwidth)
	p.Fetcher = New(s, host, host.Announce, limits, p.registry, log)
	NewServer(s, p.Fetcher, nil, limits, p.registry, log).Register(mux)
	var handler http.Handler = mux
	if c.libp2p != nil {
		handler = c.libp2p(mux)
	}
	if err := host.Start(handler); err != nil {
		t.Fatal(err)
	}
	closed := false
	p.close = func() {
		if closed {
			return
		}
		closed = true
		p.Close()
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(p.close)
	p.awaitPeersOf(t, c.join)
	return p
}

// awaitPeersOf waits until the nodes that a peer joins by are connected, and
// have told where their plain HTTP is.
func (p *testPeer) awaitPeersOf(t testing.TB, others []*testPeer) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		there := 0
		for _, o := range others {
			if _, ok := p.host.Peer(o.host.ID()); ok {
				there++
			}
		}
		if there == len(others) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d peers are connected", there, len(others))
		}
	}
}

// awaitPlain waits until a peer has said where its plain HTTP is.
func (p *testPeer) awaitPlain(t testing.TB, other *testPeer) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if q, ok := p.host.Peer(other.host.ID()); ok && q.Info().Via == "http" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the peer's HTTP port is not known")
		}
	}
}

// newBlob makes a blob of random content.
func newBlob(t testing.TB, size int64) (pieces.Blob, []byte) {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}).Read(data); err != nil {
		t.Fatal(err)
	}
	d := pieces.NewDescriber()
	_, _ = d.Write(data) // it takes everything
	return d.Blob("application/octet-stream"), data
}

// key stands for the digest of the blob's piece list.
var key = digest.FromString("a piece list")

// put gives a peer a blob.
func (p *testPeer) put(t testing.TB, b pieces.Blob, data []byte) {
	t.Helper()
	if err := p.store.Cache(b.Digest, data); err != nil {
		t.Fatal(err)
	}
}

// read reads a blob as a client does, and checks it.
func (p *testPeer) read(t testing.TB, b pieces.Blob) {
	t.Helper()
	r, err := p.Open(t.Context(), b, key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := digest.FromReader(r)
	if err != nil || got != b.Digest {
		t.Fatalf("read %s, %v: want %s", got, err, b.Digest)
	}
}

// metric is the sum of a metric whose labels have a value, or of all.
func (p *testPeer) metric(t testing.TB, name, label string) (sum float64) {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || hasLabel(m, label) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// wrongBytes flips a bit of each answer's first byte.
func wrongBytes(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&flipping{ResponseWriter: w, left: r.Method == http.MethodGet}, r)
	})
}

type flipping struct {
	http.ResponseWriter
	left bool
}

func (f *flipping) Write(p []byte) (int, error) {
	if f.left && len(p) > 0 {
		p = bytes.Clone(p)
		p[0] ^= 1
		f.left = false
	}
	return f.ResponseWriter.Write(p)
}

// bounded is a context that ends long before the test's own time.
func bounded(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
