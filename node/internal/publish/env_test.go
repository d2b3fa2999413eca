package publish

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

var linux = upstreamtest.Platform{OS: "linux", Architecture: "amd64"}

// env is a publisher with its upstream.
type env struct {
	*Publisher
	registry *upstreamtest.Registry
	gathered *prometheus.Registry
	dir      string
}

func newEnv(t *testing.T, onPull OnPull, change ...func(*Config)) *env {
	t.Helper()
	w := &env{registry: upstreamtest.New(), gathered: prometheus.NewRegistry(), dir: t.TempDir()}
	server := httptest.NewServer(w.registry)
	t.Cleanup(server.Close)
	skey, _, err := ledger.GenerateKey("ledger.example/publish")
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	writer, err := replica.OpenWriter(t.Context(), filepath.Join(w.dir, "ledger"), skey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writer.Close() })
	s, err := store.Open(filepath.Join(w.dir, "store"), store.Config{Pinned: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Writer: writer, Store: s, Upstreams: map[string]string{"docker.io": server.URL}, OnPull: onPull,
		StateFile: filepath.Join(w.dir, "dropped.json"), Provide: func(digest.Digest) {}, Metrics: w.gathered, Log: quiet,
	}
	for _, f := range change {
		f(&c)
	}
	w.Publisher, err = New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// push makes an image of layers, and tags it.
func (w *env) push(name, tag string, layers ...string) digest.Digest {
	var data [][]byte
	for _, l := range layers {
		data = append(data, []byte(l))
	}
	d := w.registry.AddIndex(w.registry.AddImage(linux, name, data...))
	w.registry.Tag("library/"+name, tag, d)
	return d
}

func (w *env) publish(t *testing.T, name string) (*control.Block, error) {
	t.Helper()
	resolved, err := w.Resolve(t.Context(), control.ResolveRequest{Image: name})
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := w.Publish(t.Context(), control.PublishRequest{Image: name, Digest: resolved.Digest})
		if err != nil || resp.Block != nil {
			if err != nil {
				return nil, err
			}
			return resp.Block, nil
		}
	}
	return nil, fmt.Errorf("%s is not published in time", name)
}

func (w *env) mustPublish(t *testing.T, name string) *control.Block {
	t.Helper()
	b, err := w.publish(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseImage(t *testing.T, name string) ledger.Image {
	t.Helper()
	i, err := ledger.ParseImage(name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// together runs do several times in parallel.
func together(n int, do func()) {
	var group sync.WaitGroup
	for range n {
		group.Go(do)
	}
	group.Wait()
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
