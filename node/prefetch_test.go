package node

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// pushFor pushes an image with one layer for this machine's platform and one
// for another, and returns the digests of both layers.
func pushFor(t *testing.T, addr, image string, size int64) (own, other digest.Digest) {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json")
	var layers []digest.Digest
	for _, arch := range []string{runtime.GOARCH, "s390x"} {
		img, err := random.Image(size, 1)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", arch
		if img, err = mutate.ConfigFile(img, config); err != nil {
			t.Fatal(err)
		}
		all, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		d, err := all[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, digest.Digest(d.String()))
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	ref, err := name.NewTag(addr+"/library/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return layers[0], layers[1]
}

// await waits until a metric of a node has a value, and reach until it has at
// least that.
func (s *started) await(t *testing.T, metric string, want float64) {
	t.Helper()
	s.awaitMetric(t, metric, func(value float64) bool { return value == want })
}

func (s *started) reach(t *testing.T, metric string, least float64) {
	t.Helper()
	s.awaitMetric(t, metric, func(value float64) bool { return value >= least })
}

func (s *started) awaitMetric(t *testing.T, metric string, good func(float64) bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !good(s.metric(t, metric)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s stays at %v", metric, s.metric(t, metric))
		}
	}
}

// metric is the sum of a node's metric over its labels.
func (s *started) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func newPrefetcher(t *testing.T, publisher *started, change func(*Config)) *started {
	t.Helper()
	c := Config{Role: control.Mirror, LedgerKey: publisher.ledger.Key(), Bootstrap: []string{publisher.address()}, Prefetch: []string{"app:*"}}
	if change != nil {
		change(&c)
	}
	return start(t, c)
}

func TestPrefetchBringsWhatMatchesForThisPlatform(t *testing.T) {
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	early, _ := pushFor(t, registry.Addr, "app:1", 9<<20)
	publisher.publish(t, "app:1")
	mirror := newPrefetcher(t, publisher, nil)
	mirror.await(t, "pyrsia_prefetch_ready_images", 1)

	own, foreign := pushFor(t, registry.Addr, "app:2", 9<<20)
	unwanted, _ := pushFor(t, registry.Addr, "other:1", 1<<20)
	publisher.publish(t, "other:1")
	publisher.publish(t, "app:2")
	mirror.await(t, "pyrsia_prefetch_ready_images", 2)
	if err := publisher.Node.Close(); err != nil {
		t.Fatal(err)
	}
	for layer, want := range map[digest.Digest]int{early: 200, own: 200, foreign: 404, unwanted: 404} {
		repository := "app"
		if layer == unwanted {
			repository = "other"
		}
		resp, err := http.Get("http://" + mirror.MirrorAddr + "/v2/library/" + repository + "/blobs/" + layer.String())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("layer %s without the publisher: %s, want %d", layer, resp.Status, want)
		}
	}
}

// Prefetched content that no client has used takes at most half of the cache,
// and what clients use stays.
func TestPrefetchLeavesRoomForWhatIsUsed(t *testing.T) {
	const size = 5 << 20
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	mirror := newPrefetcher(t, publisher, func(c *Config) { c.CacheSize = 5 * size })
	used, _ := pushFor(t, registry.Addr, "used:1", size)
	publisher.publish(t, "used:1")
	mirror.awaitBlocks(t, 1)
	resp, err := http.Get("http://" + mirror.MirrorAddr + "/v2/library/used/blobs/" + used.String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	var layers []digest.Digest
	for i, tag := range []string{"1", "2", "3", "4", "5", "6"} {
		own, _ := pushFor(t, registry.Addr, "app:"+tag, size)
		layers = append(layers, own)
		publisher.publish(t, "app:"+tag)
		mirror.await(t, "pyrsia_prefetch_skipped_images_total", float64(max(0, i-1)))
		mirror.await(t, "pyrsia_prefetch_ready_images", float64(min(i+1, 2)))
	}
	for i, layer := range layers[4:] {
		if !mirror.store.Has(layer) {
			t.Errorf("app:%d, one of the two newest, is not there", i+5)
		}
	}
	if !mirror.store.Has(used) {
		t.Error("what a client used was evicted for what nobody asked for")
	}
	// A tag that moves wants no room beside its old image.
	own, _ := pushFor(t, registry.Addr, "app:6", size)
	publisher.publish(t, "app:6")
	for deadline := time.Now().Add(testTimeout); !mirror.store.Has(own); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the tag that moved was not prefetched again")
		}
	}
	mirror.await(t, "pyrsia_prefetch_wanted_images", 2)
}

func TestPrefetchGoesOnAfterARestart(t *testing.T) {
	const size = 24 << 20
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	layer, _ := pushFor(t, registry.Addr, "app:1", size)
	publisher.publish(t, "app:1")
	mirror := newPrefetcher(t, publisher, func(c *Config) { c.DownloadLimit = 16 << 20 })
	mirror.reach(t, "pyrsia_transfer_bytes_total", 8<<20)
	if err := mirror.Node.Close(); err != nil {
		t.Fatal(err)
	}
	if mirror.store.Has(layer) {
		t.Fatal("it was there before the restart")
	}
	c := mirror.Config
	c.DownloadLimit = 0
	again, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	s := &started{Node: again, Config: c}
	s.await(t, "pyrsia_prefetch_ready_images", 1)
	if fetched := s.metric(t, "pyrsia_transfer_bytes_total"); fetched >= size-4<<20 {
		t.Errorf("%v bytes were fetched after the restart: pieces of before were fetched again", fetched)
	}
}

func TestPrefetchTriesAgain(t *testing.T) {
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	layer, _ := pushFor(t, registry.Addr, "app:1", 1<<20)
	publisher.publish(t, "app:1")
	blob := filepath.Join(publisher.DataDir, "store", "blobs", "sha256", layer.Encoded())
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	wrong := slices.Clone(data)
	wrong[0]++
	if err := os.WriteFile(blob, wrong, 0o644); err != nil {
		t.Fatal(err)
	}
	mirror := newPrefetcher(t, publisher, nil)
	mirror.reach(t, "pyrsia_prefetch_failures_total", 1)
	if mirror.metric(t, "pyrsia_prefetch_ready_images") != 0 {
		t.Error("an image that nobody has is ready")
	}
	ingest, err := publisher.store.Create(layer, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ingest.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := ingest.Commit(); err != nil {
		t.Fatal(err)
	}
	mirror.await(t, "pyrsia_prefetch_ready_images", 1)
}
