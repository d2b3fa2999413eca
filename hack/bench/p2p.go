package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
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

// inWorld runs a measurement in a network with a publisher.
func inWorld(ctx context.Context, dir string, do func(w *testnet.World) ([]row, error)) (rows []row, err error) {
	w, err := testnet.NewWorld(ctx, dir)
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

// benchPull measures one verified pull of a blob, peer to node to client. The
// floor is a file server, a relay that hashes what passes twice, and the same
// client, as processes on the same hosts.
func benchPull(ctx context.Context, dir string) ([]row, error) {
	return inWorld(ctx, dir, func(w *testnet.World) ([]row, error) {
		const size = 512 * mib
		image, err := w.Push(ctx, "big:1", size)
		if err != nil {
			return nil, err
		}
		if err := w.Publish(ctx, image.Name); err != nil {
			return nil, err
		}
		file := filepath.Join(w.Publisher.Dir, "store", "blobs", "sha256", image.Layers[0].Encoded())
		var ours, oursCPU, plain, floorCPU []float64
		for range 3 {
			m, err := w.AddMirror(ctx, nil)
			if err != nil {
				return nil, err
			}
			if err := m.AwaitBlocks(ctx, 1); err != nil {
				return nil, err
			}
			before, err1 := cpu(m.PID(), w.Publisher.PID())
			start := time.Now()
			err = curl(ctx, m.Host, fmt.Sprintf("http://127.0.0.1:%d%s", testnet.PortMirror, image.Blob(0)))
			ours = append(ours, time.Since(start).Seconds())
			after, err2 := cpu(m.PID(), w.Publisher.PID())
			if err := errors.Join(err, err1, err2); err != nil {
				return nil, err
			}
			oursCPU = append(oursCPU, after-before)

			start = time.Now()
			if err := curl(ctx, m.Host, w.Publisher.Open("/blobs/sha256/"+image.Layers[0].Encoded())); err != nil {
				return nil, err
			}
			plain = append(plain, time.Since(start).Seconds())
			used, err := floor(ctx, w.Publisher.Host, m.Host, file)
			if err != nil {
				return nil, err
			}
			floorCPU = append(floorCPU, used)
			if err := m.Kill(); err != nil {
				return nil, err
			}
		}
		gb := float64(size) / 1e9
		cpuRatio, wallRatio := median(oursCPU)/median(floorCPU), median(ours)/median(plain)
		return []row{
			{Name: "p2p-pull-cpu", Value: cpuRatio, Unit: "x", Ratio: cpuRatio, target: "< 1.15 x",
				Against: fmt.Sprintf("two HTTP hops and two SHA-256 passes: %.2f CPU s/GB, this node and its peer %.2f", median(floorCPU)/gb, median(oursCPU)/gb)},
			{Name: "p2p-pull-wall", Value: wallRatio, Unit: "x", Ratio: wallRatio, target: "< 1.3 x",
				Against: fmt.Sprintf("plain HTTP from the peer: %.2f s for 512 MiB, verified through the node %.2f s", median(plain), median(ours))},
		}, nil
	})
}

// floor is the processor time of the floor's two processes.
func floor(ctx context.Context, peer, node *testnet.Host, file string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	server := peer.Command(ctx, self, floorCommand, ":7000", file)
	relay := node.Command(ctx, self, floorCommand, ":7001", fmt.Sprintf("http://%s:7000/", peer.IP))
	for _, cmd := range []*exec.Cmd{server, relay} {
		cmd.Stderr = os.Stderr
		if err := testnet.Start(cmd); err != nil {
			return 0, err
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	}
	url := fmt.Sprintf("http://%s:7001/", node.IP)
	for range 100 { // until both listen
		if resp, err := http.Head(url); err == nil {
			if resp.Body.Close(); resp.StatusCode == http.StatusOK {
				break
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	before, err := cpu(server.Process.Pid, relay.Process.Pid)
	if err != nil {
		return 0, err
	}
	if err := curl(ctx, node, url); err != nil {
		return 0, err
	}
	after, err := cpu(server.Process.Pid, relay.Process.Pid)
	return after - before, err
}

// serveFloor is the main function of the floor's processes.
func serveFloor(addr, what string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(what, "http") {
			http.ServeFile(w, r, what)
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, what, nil)
		if err != nil {
			panic(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		piece, whole := sha256.New(), sha256.New()
		buf := make([]byte, 256<<10)
		for {
			n, err := resp.Body.Read(buf)
			piece.Write(buf[:n])
			whole.Write(buf[:n])
			if _, werr := w.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}))
}

// benchFanOut has 8 nodes pull an image at once whose only holder has a slow
// link, and then the same 8 hosts from a registry with such a link.
func benchFanOut(ctx context.Context, dir string) ([]row, error) {
	return inWorld(ctx, dir, func(w *testnet.World) ([]row, error) {
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
func centralRegistry(ctx context.Context, w *testnet.World) (*testnet.Host, string, error) {
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

// pullAtOnce has a client on each node's host pull all layers at once.
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

// benchSmall measures what a user feels of small things, in a network of 8.
func benchSmall(ctx context.Context, dir string) ([]row, error) {
	return inWorld(ctx, dir, func(w *testnet.World) ([]row, error) {
		const tiny = 40
		var images []*testnet.Image
		for i := range tiny {
			image, err := w.Push(ctx, fmt.Sprintf("tiny:%d", i), 2000)
			if err != nil {
				return nil, err
			}
			if err := w.Publish(ctx, image.Name); err != nil {
				return nil, err
			}
			images = append(images, image)
		}
		cold, err := w.Push(ctx, "cold:1", 64*mib)
		if err != nil {
			return nil, err
		}
		if err := w.Publish(ctx, cold.Name); err != nil {
			return nil, err
		}
		for range 7 {
			if _, err := w.AddMirror(ctx, nil); err != nil {
				return nil, err
			}
		}
		for _, m := range w.Mirrors {
			if err := m.AwaitBlocks(ctx, tiny+1); err != nil {
				return nil, err
			}
		}
		var rows []row
		for _, measure := range []func(context.Context, *testnet.World, []*testnet.Image) ([]row, error){benchTiny, benchFirst, benchIdle} {
			got, err := measure(ctx, w, images)
			if err != nil {
				return nil, err
			}
			rows = append(rows, got...)
		}
		got, err := benchCold(ctx, w, cold)
		return append(rows, got...), err
	})
}

// tinyURLs are the requests that a client makes for an image.
func tinyURLs(image *testnet.Image) []string {
	base := fmt.Sprintf("http://127.0.0.1:%d/v2/library/%s", testnet.PortMirror, image.Repository())
	_, tag, _ := strings.Cut(image.Name, ":")
	return []string{base + "/manifests/" + tag, base + "/manifests/" + image.Index.String(), base + "/manifests/" + image.Manifest.String(),
		base + "/blobs/" + image.Config.String(), base + "/blobs/" + image.Layers[0].String()}
}

// benchTiny pulls images that the node does not have yet.
func benchTiny(ctx context.Context, w *testnet.World, images []*testnet.Image) ([]row, error) {
	var times []time.Duration
	for i, image := range images[:len(images)-10] {
		m := w.Mirrors[i%len(w.Mirrors)]
		start := time.Now()
		if err := curl(ctx, m.Host, tinyURLs(image)...); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	ms := float64(percentile(times, 0.5).Microseconds()) / 1000
	return []row{{Name: "p2p-small-p50", Value: ms, Unit: "ms", Ratio: ms / 17, target: "< 15 ms",
		Against: "Spegel's 17 ms: tag, index, manifest, config and layer by curl, its start included"}}, nil
}

// benchFirst starts nodes in the running network until they have served an
// image that they had to fetch.
func benchFirst(ctx context.Context, w *testnet.World, images []*testnet.Image) ([]row, error) {
	var times []time.Duration
	for i := range 5 {
		m, err := w.NewMirror(nil)
		if err != nil {
			return nil, err
		}
		image := images[len(images)-1-i]
		start := time.Now()
		if err := m.Start(ctx); err != nil {
			return nil, err
		}
		url := m.Mirror("/v2/library/" + image.Repository() + "/blobs/" + image.Layers[0].String())
		for {
			resp, err := http.Get(url)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				if resp.Body.Close(); err == nil && resp.StatusCode == http.StatusOK {
					break
				}
			}
			if time.Since(start) > 20*time.Second {
				return nil, fmt.Errorf("no pull 20 s after the start, see %s", m.LogFile())
			}
			time.Sleep(time.Millisecond)
		}
		times = append(times, time.Since(start))
		if err := m.Kill(); err != nil {
			return nil, err
		}
	}
	ms := float64(percentile(times, 0.5).Microseconds()) / 1000
	return []row{{Name: "p2p-first-pull", Value: ms, Unit: "ms", Ratio: ms / 130, target: "< 200 ms",
		Against: "Spegel's 130 ms, which verifies nothing: from the process's start to the first served pull"}}, nil
}

// benchIdle leaves the network alone.
func benchIdle(ctx context.Context, w *testnet.World, _ []*testnet.Image) ([]row, error) {
	const settle, watch = 45 * time.Second, 30 * time.Second
	nodes := w.Mirrors[:7]
	var pids []int
	for _, m := range nodes {
		pids = append(pids, m.PID())
	}
	time.Sleep(settle)
	before, err := cpu(pids...)
	if err != nil {
		return nil, err
	}
	time.Sleep(watch)
	after, err := cpu(pids...)
	if err != nil {
		return nil, err
	}
	var rss []float64
	for _, pid := range pids {
		mem, err := testnet.Memory(pid, "VmRSS")
		if err != nil {
			return nil, err
		}
		rss = append(rss, float64(mem)/1e6)
	}
	percent := 100 * (after - before) / watch.Seconds() / float64(len(pids))
	return []row{
		{Name: "p2p-idle-rss", Value: median(rss), Unit: "MB", Ratio: median(rss) / 43, target: "< 45 MB", Against: "Spegel's 43 MB: median of 7 mirrors in a network of 8"},
		{Name: "p2p-idle-cpu", Value: percent, Unit: "%", Ratio: percent / 0.45, target: "< 0.5 %", Against: "Spegel's 0.45 % of a core: mean of the same"},
	}, nil
}

// benchCold counts what comes when many clients ask one node for a blob.
func benchCold(ctx context.Context, w *testnet.World, image *testnet.Image) ([]row, error) {
	const clients = 32
	m := w.Mirrors[0]
	received := func() (float64, error) {
		fresh, err1 := m.Metric(ctx, `pyrsia_transfer_bytes_total{source="peers"}`)
		twice, err2 := m.Metric(ctx, "pyrsia_transfer_duplicate_bytes_total")
		return fresh + twice, errors.Join(err1, err2)
	}
	before, err := received()
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for i := range errs {
		wg.Go(func() {
			errs[i] = curl(ctx, m.Host, fmt.Sprintf("http://127.0.0.1:%d%s", testnet.PortMirror, image.Blob(0)))
		})
	}
	wg.Wait()
	after, err := received()
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	ratio := (after - before) / float64(image.Size)
	return []row{{Name: "p2p-cold-clients-bytes", Value: ratio, Unit: "x", Ratio: ratio, target: "< 1.01 x",
		Against: fmt.Sprintf("the blob's %d MiB, for %d clients at once", image.Size/mib, clients)}}, nil
}
