package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// A day's requests in ten minutes: 50 clients, a cache of a quarter of the
// content, and faults all the time. No wrong byte comes out, and the mirror
// does not grow.
const (
	soakRequests = 100_000
	soakClients  = 50
	soakImages   = 48
	soakLayers   = 3
	sampleEvery  = 500 * time.Millisecond
)

func TestSoak(t *testing.T) {
	if os.Getenv("PYRSIA_SOAK") == "" {
		t.Skip("takes ten minutes: run 'make soak'")
	}
	s := newSoak(t)
	ctx, stop := context.WithCancel(t.Context())
	var faults, clients sync.WaitGroup
	faults.Go(func() { s.flipBytes(ctx) })
	faults.Go(func() { s.killPeer(ctx) })
	faults.Go(func() { s.sample(ctx) })
	begin := time.Now()
	for c := range soakClients {
		clients.Go(func() { s.client(rand.New(rand.NewPCG(1, uint64(c)))) })
	}
	clients.Wait()
	stop()
	faults.Wait()
	t.Logf("%d requests in %s, %.1f GB, %d aborted by the client, %d bytes flipped on disks, %d kills of a peer",
		s.done.Load(), time.Since(begin).Round(time.Second), float64(s.bytes.Load())/1e9, s.aborted.Load(), s.flips.Load(), s.kills.Load())
	t.Logf("%d wrong answers, %d refused, %d failed", s.wrong.Load(), s.refused.Load(), s.failed.Load())
	if s.wrong.Load() != 0 {
		t.Error("wrong bytes came out")
	}
	if bad := s.refused.Load() + s.failed.Load(); bad > soakRequests/1000 {
		t.Errorf("%d of %d requests were not answered, although the publisher has everything", bad, soakRequests)
	}
	s.checkFlat("RSS", "MB", s.rss, 1.15, 8)
	s.checkFlat("open files", "", s.fds, 1.15, 16)
}

type soak struct {
	t       *testing.T
	mirror  *rig.Node
	peer    *rig.Node
	content []soakBlob

	done, bytes, aborted, flips, kills, wrong, refused, failed atomic.Int64
	rss, fds                                                   []float64 // of sample's goroutine
}

type soakBlob struct {
	path    string
	content []byte
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	registry, err := rig.DockerRegistry()
	if err != nil {
		t.Fatal(err)
	}
	r, err := rig.Start(t.Context(), t.TempDir(), registry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &soak{t: t}
	total := 0
	var last int64
	for i := range soakImages {
		name := fmt.Sprintf("soak%d:1", i)
		for _, b := range s.publish(r, name, i, &last) {
			s.content = append(s.content, b)
			total += len(b.content)
		}
	}
	size := strconv.Itoa(total / 4)
	if s.mirror, err = r.StartMirror(t.Context(), "mirror", "--cache-size", size, "--access-log=false"); err != nil {
		t.Fatal(err)
	}
	if s.peer, err = r.StartMirror(t.Context(), "peer", "--cache-size", size, "--access-log=false"); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*rig.Node{s.mirror, s.peer} {
		if err := m.AwaitBlock(t.Context(), last); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d blobs of %d MB, a cache of %s bytes", len(s.content), total>>20, size)
	return s
}

// publish publishes an image whose layers are of very different sizes, some of
// several pieces.
func (s *soak) publish(r *rig.Rig, name string, seed int, last *int64) (out []soakBlob) {
	s.t.Helper()
	var layers []v1.Layer
	for l := range soakLayers {
		size := []int{20 << 10, 100 << 10, 300 << 10}[l]
		if (seed*soakLayers+l)%12 == 0 {
			size = 5 << 20
		}
		noise := make([]byte, size)
		if _, err := rand.NewChaCha8([32]byte{byte(seed), byte(l)}).Read(noise); err != nil {
			s.t.Fatal(err)
		}
		layer, err := image.OCI.Layer(0, image.File{Path: "content", Data: noise, Mode: 0o644})
		if err != nil {
			s.t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	img, err := image.OCI.Image(v1.Platform{OS: "linux", Architecture: "amd64"}, v1.Config{}, layers...)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.Push(s.t.Context(), name, img); err != nil {
		s.t.Fatal(err)
	}
	d, height, err := r.Publish(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	*last = height
	raw, err := img.RawManifest()
	if err != nil {
		s.t.Fatal(err)
	}
	repository, tag, _ := strings.Cut(name, ":")
	base := "/v2/library/" + repository
	out = []soakBlob{{base + "/manifests/" + tag, raw}, {base + "/manifests/" + d.String(), raw}}
	for _, layer := range layers {
		rc, err := layer.Compressed()
		if err != nil {
			s.t.Fatal(err)
		}
		content, err := io.ReadAll(rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, soakBlob{base + "/blobs/" + digest.FromBytes(content).String(), content})
	}
	return out
}

// client makes requests until all are done.
func (s *soak) client(r *rand.Rand) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for s.done.Add(1) <= soakRequests {
		// Some blobs are asked for much more often than others.
		i := int(float64(len(s.content)) * r.Float64() * r.Float64())
		s.request(client, r, s.content[i])
	}
	s.done.Add(-1)
}

func (s *soak) request(client *http.Client, r *rand.Rand, b soakBlob) {
	method, start := http.MethodGet, 0
	header := http.Header{}
	switch r.IntN(10) {
	case 0:
		method = http.MethodHead
	case 1, 2:
		start = r.IntN(len(b.content))
		header.Set("Range", fmt.Sprintf("bytes=%d-", start))
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.mirror.Mirror+b.path, nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		s.failed.Add(1)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		s.refused.Add(1)
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 400))
		s.t.Logf("%s: %s: %s", b.path, resp.Status, body)
		return
	}
	if method == http.MethodHead {
		return
	}
	want := b.content[start:]
	if r.IntN(20) == 0 { // a client that goes away in the middle
		want = want[:r.IntN(len(want)+1)]
		s.aborted.Add(1)
		got, err := io.ReadAll(io.LimitReader(resp.Body, int64(len(want))))
		s.judge(got, want, err)
		return
	}
	got, err := io.ReadAll(resp.Body)
	s.judge(got, want, err)
}

// judge counts an answer. A truncated one does not count as wrong, but all
// bytes that did arrive must be right.
func (s *soak) judge(got, want []byte, err error) {
	s.bytes.Add(int64(len(got)))
	switch {
	case len(got) > len(want) || !bytes.Equal(got, want[:len(got)]):
		s.wrong.Add(1)
	case err != nil || len(got) < len(want):
		s.failed.Add(1)
	}
}

// flipBytes flips bytes of blobs on the mirror's and its peer's disk.
func (s *soak) flipBytes(ctx context.Context) {
	r := rand.New(rand.NewPCG(2, 2))
	for ctx.Err() == nil {
		for _, n := range []*rig.Node{s.mirror, s.peer} {
			files, err := filepath.Glob(n.Blob("*"))
			if err != nil || len(files) == 0 {
				continue
			}
			// Not in place: an open blob may be on its way to a client at this
			// moment, and no mirror could know.
			if replaceFlipped(files[r.IntN(len(files))]) == nil {
				s.flips.Add(1)
			}
		}
		sleep(ctx, 300*time.Millisecond)
	}
}

func replaceFlipped(file string) error {
	data, err := os.ReadFile(file)
	if err != nil || len(data) == 0 {
		return errors.Join(err, io.EOF)
	}
	if fmt.Sprintf("%x", sha256.Sum256(data)) != filepath.Base(file) {
		return errors.New("flipped before")
	}
	data[len(data)/2] ^= 1
	bad := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(file))), "flipped")
	if err := os.WriteFile(bad, data, 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(file); err != nil {
		return errors.Join(err, os.Remove(bad)) // evicted meanwhile
	}
	return os.Rename(bad, file)
}

// killPeer kills the mirror's peer now and then, and starts it again.
func (s *soak) killPeer(ctx context.Context) {
	for {
		sleep(ctx, 20*time.Second)
		if ctx.Err() != nil {
			return
		}
		s.peer.Kill()
		s.kills.Add(1)
		if err := s.peer.Start(s.t.Context()); err != nil {
			s.t.Error(err)
			return
		}
	}
}

// sample notes how large the mirror is.
func (s *soak) sample(ctx context.Context) {
	for ctx.Err() == nil {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.mirror.PID()))
		fds, err2 := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.mirror.PID()))
		if err := errors.Join(err, err2); err != nil {
			s.t.Error(err)
			return
		}
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		kib, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			s.t.Error(err)
			return
		}
		s.rss, s.fds = append(s.rss, float64(kib)/1024), append(s.fds, float64(len(fds)))
		sleep(ctx, sampleEvery)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// checkFlat compares the last quarter with the second one: by then everything
// is warm.
func (s *soak) checkFlat(what, unit string, values []float64, factor, slack float64) {
	s.t.Helper()
	q := len(values) / 4
	if q == 0 {
		s.t.Fatalf("%s: %d samples only", what, len(values))
	}
	early, late := median(values[q:2*q]), median(values[3*q:])
	s.t.Logf("%s: %.0f %s early, %.0f %s late, %.0f %s at most", what, early, unit, late, unit, slices.Max(values), unit)
	if late > early*factor+slack {
		s.t.Errorf("%s grows: %.0f, then %.0f", what, early, late)
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
