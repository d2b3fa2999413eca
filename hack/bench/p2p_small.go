package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
)

// benchSmall measures what a user feels of small things, in a network of 8.
func benchSmall(ctx context.Context, dir string) ([]row, error) {
	return inEnv(ctx, dir, func(w *testnet.Env) ([]row, error) {
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
		for _, measure := range []func(context.Context, *testnet.Env, []*testnet.Image) ([]row, error){benchTiny, benchFirst, benchIdle} {
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
func tinyURLs(base string, image *testnet.Image) []string {
	base += "/v2/library/" + image.Repository()
	_, tag, _ := strings.Cut(image.Name, ":")
	return []string{base + "/manifests/" + tag, base + "/manifests/" + image.Index.String(), base + "/manifests/" + image.Manifest.String(),
		base + "/blobs/" + image.Config.String(), base + "/blobs/" + image.Layers[0].String()}
}

// timedCurl fetches URLs as curl does and adds up how long each took: the
// start of curl on the host, which says nothing about a server, is left out.
func timedCurl(ctx context.Context, h *testnet.Host, urls ...string) (took time.Duration, err error) {
	args := []string{"-sSf", "--fail-early", "-w", "%{time_total} ",
		"-H", "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"}
	for _, u := range urls {
		args = append(args, "-o", "/dev/null", u)
	}
	out, err := h.Command(ctx, "curl", args...).Output()
	if err != nil {
		return 0, fmt.Errorf("curl %s: %w", urls[0], err)
	}
	for _, field := range strings.Fields(string(out)) {
		seconds, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		took += time.Duration(seconds * float64(time.Second))
	}
	return took, nil
}

// benchTiny pulls images that the node does not have yet, and the same from a
// registry in the same network.
func benchTiny(ctx context.Context, w *testnet.Env, images []*testnet.Image) ([]row, error) {
	_, registry, err := centralRegistry(ctx, w)
	if err != nil {
		return nil, err
	}
	var ours, theirs []time.Duration
	for i, image := range images[:len(images)-10] {
		m := w.Mirrors[i%len(w.Mirrors)]
		took, err1 := timedCurl(ctx, m.Host, tinyURLs(fmt.Sprintf("http://127.0.0.1:%d", testnet.PortMirror), image)...)
		central, err2 := timedCurl(ctx, m.Host, tinyURLs("http://"+registry, image)...)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		ours, theirs = append(ours, took), append(theirs, central)
	}
	ms, central := milliseconds(percentile(ours, 0.5)), milliseconds(percentile(theirs, 0.5))
	return []row{{Name: "p2p-small-p50", Value: ms, Unit: "ms", Ratio: ms / central, target: "< 15 ms",
		Against: fmt.Sprintf("docker-registry in the same network: %.1f ms for tag, index, manifest, config and layer by one curl, its start left out", central)}}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// benchFirst starts nodes in the running network until they have served an
// image that they had to fetch.
func benchFirst(ctx context.Context, w *testnet.Env, images []*testnet.Image) ([]row, error) {
	var ups, times []time.Duration
	for i := range 7 {
		m, err := w.NewMirror(nil)
		if err != nil {
			return nil, err
		}
		image := images[len(images)-1-i]
		start := time.Now()
		if err := m.Start(ctx); err != nil {
			return nil, err
		}
		for tagged := tinyURLs(m.Mirror(""), image)[0]; ; time.Sleep(time.Millisecond) {
			resp, err := http.Get(tagged)
			if err == nil {
				if len(ups) == i {
					ups = append(ups, time.Since(start))
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if resp.Body.Close(); err == nil && resp.StatusCode == http.StatusOK {
					break
				}
			}
			if time.Since(start) > 20*time.Second {
				return nil, fmt.Errorf("no pull 20 s after the start, see %s", m.LogFile())
			}
		}
		times = append(times, time.Since(start))
		if err := m.Kill(); err != nil {
			return nil, err
		}
	}
	ms := milliseconds(percentile(times, 0.5))
	return []row{{Name: "p2p-first-pull", Value: ms, Unit: "ms", Ratio: ms / 130, target: "< 200 ms",
		Against: fmt.Sprintf("Spegel's 130 ms, which verifies nothing: from the process's start to the first served pull by tag; the process itself was up after %.0f ms", milliseconds(percentile(ups, 0.5)))}}, nil
}

// benchIdle leaves the network alone.
func benchIdle(ctx context.Context, w *testnet.Env, _ []*testnet.Image) ([]row, error) {
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
func benchCold(ctx context.Context, w *testnet.Env, image *testnet.Image) ([]row, error) {
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
