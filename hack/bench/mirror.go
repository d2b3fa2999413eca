package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

const (
	bigBlob   = 200 << 20
	smallBlob = 415
	manyBlobs = 100_000
)

func mirrorBenchmarks() []benchmark {
	return []benchmark{{[]string{
		"mirror-blob", "mirror-blob-registry", "mirror-manifests", "mirror-small-blobs", "mirror-rss", "mirror-start",
	}, benchMirror}}
}

// mirrorBench is the mirror and what it is compared with.
type mirrorBench struct {
	*rig.Rig
	mirror     *rig.Node
	big, small digest.Digest
}

func benchMirror(ctx context.Context, dir string) (_ []row, err error) {
	registry, err := rig.DockerRegistry()
	if err != nil {
		return nil, err
	}
	r, err := rig.Start(ctx, dir, registry)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	b := &mirrorBench{Rig: r}
	if err := b.publish(ctx); err != nil {
		return nil, err
	}
	if b.mirror, err = r.StartMirror(ctx, "mirror"); err != nil {
		return nil, err
	}
	if err := b.mirror.AwaitBlock(ctx, 0); err != nil {
		return nil, err
	}
	var rows []row
	for _, part := range []func(context.Context) ([]row, error){b.memory, b.blobs, b.requests, b.start} {
		got, err := part(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// publish publishes one image with a big and a small layer.
func (b *mirrorBench) publish(ctx context.Context) error {
	noise := make([]byte, bigBlob)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		return err
	}
	b.big, b.small = digest.FromBytes(noise), digest.FromBytes(noise[:smallBlob])
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer(noise, types.OCILayer), static.NewLayer(noise[:smallBlob], types.OCILayer))
	if err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}); err != nil {
		return err
	}
	if err := b.Push(ctx, "bench:1", img); err != nil {
		return err
	}
	_, _, err = b.Publish(ctx, "bench:1")
	return err
}

const (
	manifestPath = "/v2/library/bench/manifests/1"
	blobPath     = "/v2/library/bench/blobs/"
)

// memory has 50 clients pull the big blob at once: first while it comes from
// the publisher, then from the disk.
func (b *mirrorBench) memory(ctx context.Context) ([]row, error) {
	for range 2 {
		if _, err := transferAll(ctx, b.mirror.Mirror, blobPath+b.big.String(), 50, 1); err != nil {
			return nil, err
		}
	}
	rss, err := processPeakRSS(strconv.Itoa(b.mirror.PID()))
	if err != nil {
		return nil, err
	}
	return []row{{Name: "mirror-rss", Value: rss / 1e6, Unit: "MB", Ratio: rss / 150e6, target: "< 150 MB",
		Against: "the target; peak under 50 pulls of 200 MB at once, from a peer and then from the disk"}}, nil
}

// blobs compares the big blob's throughput, in turns.
func (b *mirrorBench) blobs(ctx context.Context) ([]row, error) {
	raw, err := startRaw(ctx, b.mirror.Blob(b.big.Encoded()))
	if err != nil {
		return nil, err
	}
	defer raw.stop()
	targets := []struct{ addr, path string }{
		{b.mirror.Mirror, blobPath + b.big.String()}, {raw.addr, "/"}, {b.Registry.Addr, blobPath + b.big.String()},
	}
	rates := make([][]float64, len(targets))
	for range 7 {
		for i, t := range targets {
			took, err := transferAll(ctx, t.addr, t.path, 2, 4)
			if err != nil {
				return nil, err
			}
			rates[i] = append(rates[i], 8*bigBlob/took.Seconds()/1e9)
		}
	}
	ours, sendfile, registry := median(rates[0]), median(rates[1]), median(rates[2])
	return []row{
		{Name: "mirror-blob", Value: ours / sendfile, Unit: "x", Ratio: ours / sendfile, target: ">= 0.9 x",
			Against: fmt.Sprintf("http.ServeContent of the same file, clients that discard: %.2f GB/s, mirror %.2f GB/s", sendfile, ours)},
		{Name: "mirror-blob-registry", Value: ours / registry, Unit: "x", Ratio: ours / registry, target: ">= 1.5 x",
			Against: fmt.Sprintf("docker-registry: %.2f GB/s, mirror %.2f GB/s", registry, ours)},
	}, nil
}

// requests compares how many small answers come per second, in turns.
func (b *mirrorBench) requests(ctx context.Context) ([]row, error) {
	var rows []row
	for _, what := range []struct {
		name, what, path, target string
		want                     float64
	}{
		{"mirror-manifests", "manifests by tag", manifestPath, ">= 8 x", 8},
		{"mirror-small-blobs", "blobs of 415 B", blobPath + b.small.String(), ">= 10 x", 10},
	} {
		var ours, theirs []float64
		for range 5 {
			for addr, rates := range map[string]*[]float64{b.mirror.Mirror: &ours, b.Registry.Addr: &theirs} {
				rate, err := requestRate(ctx, addr, what.path)
				if err != nil {
					return nil, err
				}
				*rates = append(*rates, rate)
			}
		}
		ratio := median(ours) / median(theirs)
		rows = append(rows, row{Name: what.name, Value: ratio, Unit: "x", Ratio: ratio, target: what.target,
			Against: fmt.Sprintf("docker-registry, 16 connections: %.0f/s, mirror %.0f/s (%s)", median(theirs), median(ours), what.what)})
	}
	return rows, nil
}

// start measures how long a mirror with many blobs takes to start, until it
// is ready and hands out a manifest.
func (b *mirrorBench) start(ctx context.Context) ([]row, error) {
	if err := b.mirror.Stop(); err != nil {
		return nil, err
	}
	for i := range manyBlobs {
		content := fmt.Appendf(nil, "blob %d\n", i)
		sum := sha256.Sum256(content)
		if err := os.WriteFile(b.mirror.Blob(hex.EncodeToString(sum[:])), content, 0o644); err != nil {
			return nil, err
		}
	}
	var times []float64
	for range 5 {
		begin := time.Now()
		if err := errors.Join(b.mirror.Start(ctx), b.mirror.AwaitReady(ctx)); err != nil {
			return nil, err
		}
		if _, err := transferAll(ctx, b.mirror.Mirror, manifestPath, 1, 1); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin).Seconds())
		if err := b.mirror.Stop(); err != nil {
			return nil, err
		}
	}
	s := median(times)
	return []row{{Name: "mirror-start", Value: s, Unit: "s", Ratio: s / 2, target: "< 2 s",
		Against: "the target; from exec to the first manifest, with 100,000 blobs"}}, nil
}

// rawCommand has this program serve one file and nothing else, in a process
// of its own as the others are.
const rawCommand = "serve-file"

type rawServer struct {
	addr string
	stop func()
}

func startRaw(ctx context.Context, file string) (*rawServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := rig.FreeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, rawCommand, addr, file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &rawServer{addr, func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return s, conn.Close()
		}
		if time.Since(begin) > 10*time.Second {
			s.stop()
			return nil, err
		}
	}
}

// serveFile is the process's side.
func serveFile(addr, file string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, f)
	}))
}

// transferAll fetches a path n times on each of so many connections.
func transferAll(ctx context.Context, addr, path string, connections, n int) (time.Duration, error) {
	begin := time.Now()
	errs := make([]error, connections)
	var done sync.WaitGroup
	for c := range connections {
		done.Go(func() {
			conn, err := dial(ctx, addr, path)
			if err != nil {
				errs[c] = err
				return
			}
			defer conn.Close()
			for range n {
				if errs[c] = conn.fetch(); errs[c] != nil {
					return
				}
			}
		})
	}
	done.Wait()
	return time.Since(begin), errors.Join(errs...)
}

// requestRate fetches a path on 16 connections for two seconds.
func requestRate(ctx context.Context, addr, path string) (float64, error) {
	const connections, long = 16, 2 * time.Second
	begin := time.Now()
	counts := make([]int, connections)
	errs := make([]error, connections)
	var done sync.WaitGroup
	for c := range connections {
		done.Go(func() {
			conn, err := dial(ctx, addr, path)
			if err != nil {
				errs[c] = err
				return
			}
			defer conn.Close()
			for time.Since(begin) < long {
				if errs[c] = conn.fetch(); errs[c] != nil {
					return
				}
				counts[c]++
			}
		})
	}
	done.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / time.Since(begin).Seconds(), errors.Join(errs...)
}

// connection is a client that costs little, so that the server is measured.
type connection struct {
	net.Conn
	raw     syscall.RawConn
	request []byte
	buf     []byte
}

func dial(ctx context.Context, addr, path string) (*connection, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	accept := ""
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		accept += "Accept: " + string(t) + "\r\n"
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &connection{conn, raw, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, addr, accept), make([]byte, 1<<20)}, nil
}

// fetch makes the request once and reads the whole answer.
func (c *connection) fetch() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	have, end := 0, -1
	for end < 0 {
		n, err := c.Read(c.buf[have:])
		if err != nil {
			return err
		}
		have += n
		end = bytes.Index(c.buf[:have], []byte("\r\n\r\n"))
	}
	header := c.buf[:end+2]
	if !bytes.HasPrefix(header, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%s: %.300s", c.RemoteAddr(), c.buf[:have])
	}
	_, rest, ok := bytes.Cut(header, []byte("Content-Length: "))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.Atoi(string(value))
	if !ok || err != nil {
		return fmt.Errorf("%s: no length: %.300s", c.RemoteAddr(), header)
	}
	return c.discard(length - (have - end - 4))
}

// discard takes n bytes off the socket without a copy (MSG_TRUNC, tcp(7)): the
// servers have both cores of a small machine to themselves.
func (c *connection) discard(n int) error {
	var failure error
	err := c.raw.Read(func(fd uintptr) bool {
		for n > 0 {
			got, _, err := unix.Recvfrom(int(fd), c.buf[:min(len(c.buf), n)], unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.EINTR):
			case err != nil || got == 0:
				failure = errors.Join(io.ErrUnexpectedEOF, err)
				return true
			default:
				n -= got
			}
		}
		return true
	})
	return errors.Join(failure, err)
}
