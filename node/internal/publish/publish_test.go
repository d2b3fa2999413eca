package publish

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// Jobs are forgotten when they succeed, whether or not anybody asks again:
// else a publisher would one day have no room for new ones.
func TestFinishedJobsDoNotPileUp(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	skey, _, err := ledger.GenerateKey("ledger.example/publish")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s, err := store.Open(t.TempDir(), store.Config{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{
		Writer: w, Store: s, Upstreams: map[string]string{"docker.io": server.URL}, StateFile: filepath.Join(t.TempDir(), "dropped"),
		Provide: func(digest.Digest) {}, Metrics: prometheus.NewRegistry(), Log: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const images = 5
	for i := range images {
		index, err := random.Index(100, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewTag(fmt.Sprintf("%s/library/i%d:1", strings.TrimPrefix(server.URL, "http://"), i), name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, index); err != nil {
			t.Fatal(err)
		}
		d, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		image, err := ledger.ParseImage(fmt.Sprintf("i%d:1", i))
		if err != nil {
			t.Fatal(err)
		}
		// Started, and never asked for again.
		if _, err := p.start(&job{key: key{image.String(), digest.Digest(d.String())}, image: image, registry: p.upstreams["docker.io"]}); err != nil {
			t.Fatal(err)
		}
	}
	// One that fails is kept until it is asked for.
	missing := control.PublishRequest{Image: "missing:1", Digest: digest.FromString("missing").String()}
	deadline := time.Now().Add(time.Minute)
	for {
		resp, err := p.Publish(t.Context(), missing)
		if err != nil {
			break
		}
		if resp.Block != nil || time.Now().After(deadline) {
			t.Fatalf("an image that does not exist: %+v", resp)
		}
	}
	for ; ; <-time.After(20 * time.Millisecond) {
		p.mu.Lock()
		left := len(p.jobs)
		p.mu.Unlock()
		if left == 0 && w.Size() == images {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d jobs are left with %d of %d images published", left, w.Size(), images)
		}
	}
}
