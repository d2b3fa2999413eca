package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
	"github.com/pyrsia/pyrsia-operator/hack/testnet"
)

// floorCommand has this program be one of the two processes that p2p-pull-cpu
// is measured against: a file server, or a relay that hashes twice.
const floorCommand = "p2p-floor"

func p2pBenchmarks() []benchmark {
	return []benchmark{
		{[]string{"p2p-pull-cpu", "p2p-pull-wall"}, benchPull},
		{[]string{"p2p-fanout-egress", "p2p-fanout-time"}, benchFanOut},
		{[]string{"p2p-small-p50", "p2p-cold-clients-bytes", "p2p-first-pull", "p2p-idle-rss", "p2p-idle-cpu"}, benchSmall},
	}
}

const mib = 1 << 20

// inEnv runs a measurement in a network with a publisher.
func inEnv(ctx context.Context, dir string, do func(w *testnet.Env) ([]row, error)) (rows []row, err error) {
	w, err := testnet.NewEnv(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	return do(w)
}

// curl fetches URLs on a host, one after the other over one connection, and
// throws what comes away.
func curl(ctx context.Context, h *testnet.Host, urls ...string) error {
	args := []string{"-sSf"}
	for _, u := range urls {
		args = append(args, "-o", "/dev/null", u)
	}
	if out, err := h.Command(ctx, "curl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("curl %s: %w: %s", urls[0], err, out)
	}
	return nil
}

// cpu is the processor time in seconds that processes have used.
func cpu(pids ...int) (total float64, err error) {
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, f := range fields[11:13] { // utime, stime (proc(5))
			ticks, err := strconv.ParseFloat(f, 64)
			if err != nil {
				return 0, err
			}
			total += ticks / 100
		}
	}
	return total, nil
}

// benchFanOut makes 8 nodes pull an image in parallel whose only holder has a
// slow link, and then the same 8 hosts pull it from a registry with such a
// link.
func benchFanOut(ctx context.Context, dir string) ([]row, error) {
	return inEnv(ctx, dir, func(w *testnet.Env) ([]row, error) {
		const publisherLink, nodeLink = 400, 500 // Mbit/s
		image, err := w.Push(ctx, "fan:1", 128*mib, 64*mib, 48*mib, 16*mib)
		if err != nil {
			return nil, err
		}
		if err := w.Publish(ctx, image.Name); err != nil {
			return nil, err
		}
		for range 8 {
			if _, err := w.AddMirror(ctx, nil); err != nil {
				return nil, err
			}
		}
		for _, m := range w.Mirrors {
			if err := errors.Join(m.AwaitBlocks(ctx, 1), m.Shape(nodeLink, nodeLink)); err != nil {
				return nil, err
			}
		}
		central, registry, err := centralRegistry(ctx, w)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(w.Publisher.Shape(publisherLink, 0), central.Shape(publisherLink, 0)); err != nil {
			return nil, err
		}
		before, err := w.Publisher.Sent()
		if err != nil {
			return nil, err
		}
		ours, err := pullAtOnce(ctx, w.Mirrors, image, func(*testnet.Node) string { return fmt.Sprintf("http://127.0.0.1:%d", testnet.PortMirror) })
		if err != nil {
			return nil, err
		}
		after, err := w.Publisher.Sent()
		if err != nil {
			return nil, err
		}
		theirs, err := pullAtOnce(ctx, w.Mirrors, image, func(*testnet.Node) string { return "http://" + registry })
		if err != nil {
			return nil, err
		}
		egress, ratio := float64(after-before)/float64(image.Size), ours.Seconds()/theirs.Seconds()
		return []row{
			{Name: "p2p-fanout-egress", Value: egress, Unit: "x", Ratio: egress, target: "< 1.5 x",
				Against: fmt.Sprintf("the image's %d MiB, on 8 nodes at once (a registry: 8 x)", image.Size/mib)},
			{Name: "p2p-fanout-time", Value: ratio, Unit: "x", Ratio: ratio, target: "< 0.2 x",
				Against: fmt.Sprintf("docker-registry behind the same %d Mbit/s: %.1f s, this network %.1f s", publisherLink, theirs.Seconds(), ours.Seconds())},
		}, nil
	})
}

// centralRegistry starts a registry on a host of its own, with the files of
// the one that the publisher copies from.
func centralRegistry(ctx context.Context, w *testnet.Env) (*testnet.Host, string, error) {
	h, err := w.Host("registry")
	if err != nil {
		return nil, "", err
	}
	_, binary, err := testnet.Binaries()
	if err != nil {
		return nil, "", err
	}
	addr := net.JoinHostPort(h.IP, "5000")
	config := filepath.Join(w.Dir, "central.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, upstream.Config, filepath.Join(w.Dir, "registry", "data"), addr), 0o644); err != nil {
		return nil, "", err
	}
	if err := testnet.Start(h.Command(context.WithoutCancel(ctx), binary, "serve", config)); err != nil {
		return nil, "", err
	}
	for range 200 {
		if curl(ctx, h, "http://"+addr+"/v2/") == nil {
			return h, addr, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, "", errors.New("the registry does not answer")
}

// pullAtOnce makes a client on each node's host pull all layers in parallel.
func pullAtOnce(ctx context.Context, nodes []*testnet.Node, image *testnet.Image, base func(*testnet.Node) string) (time.Duration, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failure error
	start := time.Now()
	for _, n := range nodes {
		for layer := range image.Layers {
			wg.Go(func() {
				if err := curl(ctx, n.Host, base(n)+image.Blob(layer)); err != nil {
					mu.Lock()
					failure = errors.Join(failure, err)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return time.Since(start), failure
}
