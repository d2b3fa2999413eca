package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	visibleAppends = 300
	visibleRate    = 4 // appends a second, on average
	visibleMirrors = 3
	visibleWait    = 30 * time.Second // for anything
	visiblePoll    = 2 * time.Millisecond
)

// benchVisible measures how long it takes from the call that publishes an
// image until all mirrors show its block: real processes, which find each
// other and gossip over libp2p on loopback. The content is on the publisher
// already, so what is measured is the ledger's way.
func benchVisible(ctx context.Context, dir string) (rows []row, err error) {
	n, err := startNetwork(ctx, dir)
	defer func() { err = errors.Join(err, n.stop()) }()
	if err != nil {
		return nil, err
	}
	took, err := n.appendAndWatch(ctx)
	if err != nil {
		return nil, err
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	p50, p99 := ms(percentile(took, 0.5)), ms(percentile(took, 0.99))
	against := fmt.Sprintf("500 ms, %d appends at %d/s until %d mirrors show them", visibleAppends, visibleRate, visibleMirrors)
	return []row{
		{Name: "ledger-visible-p50", Value: p50, Unit: "ms", Ratio: p50 / 500, target: "< 500 ms", Against: against},
		{Name: "ledger-visible-p99", Value: p99, Unit: "ms", Ratio: p99 / 500, target: "< 500 ms", Against: against},
	}, nil
}

// network is a publisher and its mirrors.
type network struct {
	dir       string
	digest    string // of the one image
	nodes     []*exec.Cmd
	upstream  *httptest.Server
	publisher *control.Client
	mirrors   []string // URLs of their open ports
}

func startNetwork(ctx context.Context, dir string) (*network, error) {
	n := &network{dir: dir, upstream: httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "pyrsia"), "./cmd/pyrsia")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return n, fmt.Errorf("building the node: %w", err)
	}
	img, err := random.Image(1024, 1)
	if err != nil {
		return n, err
	}
	for i := range visibleAppends + 1 {
		ref, err := name.NewTag(fmt.Sprintf("%s/library/image%d:1", n.upstream.Listener.Addr(), i), name.Insecure)
		if err != nil {
			return n, err
		}
		if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
			return n, fmt.Errorf("making the upstream's images: %w", err)
		}
	}
	d, err := img.Digest()
	if err != nil {
		return n, err
	}
	n.digest = d.String()
	vkey, err := n.startPublisher(ctx)
	if err != nil {
		return n, err
	}
	status, err := n.publisher.Status(ctx, 0)
	if err != nil {
		return n, err
	}
	i := slices.IndexFunc(status.Addrs, func(a string) bool { return strings.HasPrefix(a, "/ip4/127.0.0.1/tcp/") })
	if i < 0 {
		return n, fmt.Errorf("the publisher listens at %v only", status.Addrs)
	}
	for i := range visibleMirrors {
		open, err := loopback.FreeAddr()
		if err != nil {
			return n, err
		}
		n.mirrors = append(n.mirrors, "http://"+open)
		err = n.start(fmt.Sprint("mirror", i), "--role", "Mirror", "--ledger-key", vkey, "--open-addr", open,
			"--bootstrap", status.Addrs[i]+"/p2p/"+status.PeerID)
		if err != nil {
			return n, err
		}
	}
	if _, err := n.publish(ctx, 0); err != nil {
		return n, err
	}
	return n, until(ctx, func() bool {
		return !slices.ContainsFunc(n.mirrors, func(m string) bool { return size(ctx, m) < 1 })
	})
}

// startPublisher returns the ledger's key.
func (n *network) startPublisher(ctx context.Context) (string, error) {
	skey, vkey, err := ledger.GenerateKey(origin)
	if err != nil {
		return "", err
	}
	public, own, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	operatorPublic, operator, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	ownPEM, err1 := control.MarshalPrivateKey(own)
	operatorPEM, err2 := control.MarshalPublicKeys(operatorPublic)
	file := func(name string) string { return filepath.Join(n.dir, name) }
	if err := errors.Join(err1, err2, os.WriteFile(file("signing.key"), []byte(skey), 0o600),
		os.WriteFile(file("control.key"), ownPEM, 0o600), os.WriteFile(file("operator.pub"), operatorPEM, 0o600)); err != nil {
		return "", err
	}
	open, err1 := loopback.FreeAddr()
	addr, err2 := loopback.FreeAddr()
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	if err := n.start("publisher", "--role", "Publisher", "--signing-key", file("signing.key"), "--upstream", "docker.io="+n.upstream.URL,
		"--open-addr", open, "--control-addr", addr, "--control-key", file("control.key"), "--operator-key", file("operator.pub")); err != nil {
		return "", err
	}
	if n.publisher, err = control.NewClient(addr, control.Keys{Own: operator, Peer: public}); err != nil {
		return "", err
	}
	return vkey, until(ctx, func() bool { _, err := n.publisher.Status(ctx, 0); return err == nil })
}

func (n *network) start(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(n.dir, "pyrsia"), append([]string{"node", "--p2p-port", "0", "--data", filepath.Join(n.dir, name)}, args...)...)
	out, err := os.Create(filepath.Join(n.dir, name+".log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the %s: %w", name, err)
	}
	n.nodes = append(n.nodes, cmd)
	return nil
}

func (n *network) stop() error {
	var errs []error
	if n.publisher != nil {
		n.publisher.Close()
	}
	for _, cmd := range n.nodes {
		errs = append(errs, cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, cmd := range n.nodes {
		if err := cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cmd, err))
		}
	}
	n.upstream.Close()
	return errors.Join(errs...)
}

// publish publishes the image under a name and returns its block.
func (n *network) publish(ctx context.Context, i int) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, visibleWait)
	defer cancel()
	for {
		resp, err := n.publisher.Publish(ctx, control.PublishRequest{Image: fmt.Sprintf("docker.io/library/image%d:1", i), Digest: n.digest})
		if err != nil {
			return 0, fmt.Errorf("publishing: %w", err)
		}
		if resp.Block != nil {
			return resp.Block.Height, nil
		}
	}
}

// appendAndWatch publishes at random times, and returns how long each block
// took to be on all mirrors.
func (n *network) appendAndWatch(ctx context.Context) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watchers, publishers sync.WaitGroup
	seen := make([][]time.Time, len(n.mirrors)) // of each mirror, when it had a block
	for i, m := range n.mirrors {
		watchers.Go(func() {
			for have := range int64(visibleAppends + 1) {
				for size(ctx, m) <= have && ctx.Err() == nil {
					time.Sleep(visiblePoll)
				}
				seen[i] = append(seen[i], time.Now())
			}
		})
	}
	began := make([]time.Time, visibleAppends+1) // by block
	errs := make([]error, visibleAppends+1)
	for i := 1; i <= visibleAppends; i++ {
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(time.Second) / visibleRate))
		publishers.Go(func() {
			start := time.Now()
			height, err := n.publish(ctx, i)
			if err != nil {
				errs[i] = err
				return
			}
			began[height] = start
		})
	}
	publishers.Wait()
	stop := time.AfterFunc(visibleWait, cancel)
	watchers.Wait()
	stop.Stop()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, err
	}
	var took []time.Duration
	for height := 1; height <= visibleAppends; height++ {
		last := slices.MaxFunc(seen, func(a, b []time.Time) int { return a[height].Compare(b[height]) })[height]
		took = append(took, last.Sub(began[height]))
	}
	return took, nil
}

// size is how many blocks a node shows; 0 if it does not answer.
func size(ctx context.Context, url string) int64 {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/checkpoint", nil)
	if err != nil {
		return 0
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	lines := bytes.SplitN(data, []byte("\n"), 3)
	if err != nil || resp.StatusCode != http.StatusOK || len(lines) < 3 {
		return 0
	}
	n, _ := strconv.ParseInt(string(lines[1]), 10, 64)
	return n
}

func until(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, visibleWait)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("a node did not start in %s: %w", visibleWait, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
