package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
)

// benchPull measures one verified pull of a blob, peer to node to client. The
// floor is a file server, a relay that hashes what passes twice, and the same
// client, as processes on the same hosts.
func benchPull(ctx context.Context, dir string) ([]row, error) {
	return inEnv(ctx, dir, func(w *testnet.Env) ([]row, error) {
		const size = 512 * mib
		image, err := w.Push(ctx, "big:1", size)
		if err != nil {
			return nil, err
		}
		if err := w.Publish(ctx, image.Name); err != nil {
			return nil, err
		}
		file := filepath.Join(w.Publisher.Dir, "store", "blobs", "sha256", image.Layers[0].Encoded())
		var ours, oursCPU, plain, floorWall, floorCPU []float64
		for range 5 {
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
			used, took, err := floor(ctx, w.Publisher.Host, m.Host, file)
			if err != nil {
				return nil, err
			}
			floorCPU, floorWall = append(floorCPU, used), append(floorWall, took.Seconds())
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
				Against: fmt.Sprintf("plain HTTP from the peer: %.2f s for 512 MiB, verified through the node %.2f s; the floor's two hops and two hashes on these %d cores: %.2f s",
					median(plain), median(ours), runtime.NumCPU(), median(floorWall))},
		}, nil
	})
}

// floor is the processor time of the floor's two processes, and how long the
// client waits for them.
func floor(ctx context.Context, peer, node *testnet.Host, file string) (used float64, took time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	server := peer.Command(ctx, self, floorCommand, ":7000", file)
	relay := node.Command(ctx, self, floorCommand, ":7001", fmt.Sprintf("http://%s:7000/", peer.IP))
	for _, cmd := range []*exec.Cmd{server, relay} {
		cmd.Stderr = os.Stderr
		if err := testnet.Start(cmd); err != nil {
			return 0, 0, err
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
		return 0, 0, err
	}
	start := time.Now()
	if err := curl(ctx, node, url); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	after, err := cpu(server.Process.Pid, relay.Process.Pid)
	return after - before, took, err
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
