// Package p2ptest tests nodes as real processes on hosts of their own: network
// namespaces. `make test-network` runs it.
package p2ptest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
	"github.com/pyrsia/pyrsia-operator/node/client"
)

func TestMain(m *testing.M) {
	if os.Getenv("PYRSIA_NETWORK") == "" {
		fmt.Println("skipped: run this by 'make test-network'")
		return
	}
	if kind := os.Getenv(hostileEnv); kind != "" {
		if err := hostile(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testnet.Enter()
	os.Exit(m.Run())
}

// newEnv starts a registry and a publisher, and ends everything at the end.
func newEnv(t *testing.T, args ...string) *testnet.Env {
	t.Helper()
	return newEnvOf(t, testnet.NewEnv, args...)
}

func newEnvOf(t *testing.T, begin func(ctx context.Context, dir string, args ...string) (*testnet.Env, error), args ...string) *testnet.Env {
	t.Helper()
	w, err := begin(t.Context(), t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range append(w.Mirrors, w.Publisher) {
				log, _ := os.ReadFile(n.LogFile())
				t.Logf("%s said:\n%s", n.Name, log[max(0, len(log)-8000):])
			}
		}
	})
	return w
}

// published pushes an image upstream and has it published.
func published(t *testing.T, w *testnet.Env, name string, layers ...int64) *testnet.Image {
	t.Helper()
	image, err := w.Push(t.Context(), name, layers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Publish(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return image
}

// mirrors starts n mirrors in parallel, which join through the publisher.
func mirrors(t *testing.T, w *testnet.Env, n int, args ...string) []*testnet.Node {
	t.Helper()
	for range n {
		m, err := w.NewMirror(nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		up(t, m)
	}
	return w.Mirrors
}

func up(t *testing.T, n *testnet.Node) {
	t.Helper()
	if err := n.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func awaitBlocks(t *testing.T, blocks int64, nodes ...*testnet.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.AwaitBlocks(t.Context(), blocks); err != nil {
			t.Fatal(err)
		}
	}
}

// await waits until something is so.
func await(t *testing.T, within time.Duration, otherwise string, is func() bool) {
	t.Helper()
	for started := time.Now(); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Since(started) > within {
			t.Fatal(otherwise)
		}
	}
}

func awaitPeers(t *testing.T, n *testnet.Node, want int) {
	t.Helper()
	await(t, time.Minute, fmt.Sprintf("%s does not have %d peers", n.Name, want), func() bool { return len(peersOf(t, n)) >= want })
}

func peersOf(t *testing.T, n *testnet.Node) (peers []client.Peer) {
	t.Helper()
	if err := testnet.GetJSON(t.Context(), n.Open("/api/v1/peers"), &peers); err != nil {
		t.Fatal(err)
	}
	return peers
}

// pull pulls an image as a client does, and checks every byte.
func pull(ctx context.Context, n *testnet.Node, image *testnet.Image) error {
	repo := "/v2/library/" + image.Repository()
	_, tag, _ := cut(image.Name)
	if err := fetch(ctx, n.Mirror(repo+"/manifests/"+tag), image.Index); err != nil {
		return err
	}
	if err := fetch(ctx, n.Mirror(repo+"/manifests/"+image.Manifest.String()), image.Manifest); err != nil {
		return err
	}
	errs := make([]error, len(image.Layers)+1)
	var wg sync.WaitGroup
	for i, d := range append([]digest.Digest{image.Config}, image.Layers...) {
		wg.Go(func() { errs[i] = fetch(ctx, n.Mirror(repo+"/blobs/"+d.String()), d) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func cut(name string) (string, string, bool) {
	for i := range name {
		if name[i] == ':' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "latest", false
}

// errUnverified is what no node may ever do.
var errUnverified = errors.New("UNVERIFIED CONTENT left the node")

// fetch reads content and checks it. A node may refuse, and break off, but
// never send other bytes than a beginning of the right ones.
func fetch(ctx context.Context, url string, want digest.Digest) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	h := sha256.New()
	if _, err := io.Copy(h, resp.Body); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if got := digest.NewDigest(digest.SHA256, h); got != want {
		return fmt.Errorf("%w: %s has digest %s", errUnverified, url, got)
	}
	return nil
}

// pullAll pulls an image from several nodes in parallel.
func pullAll(t *testing.T, image *testnet.Image, nodes ...*testnet.Node) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if errs[i] = pull(ctx, n, image); errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Name, errs[i])
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func sent(t *testing.T, h *testnet.Host) int64 {
	t.Helper()
	n, err := h.Sent()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
