package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	origin    = "bench.example/ledger"
	bigLedger = 1_000_000 // blocks
)

func ledgerBenchmarks() []benchmark {
	return []benchmark{
		{[]string{"ledger-append"}, benchAppend},
		{[]string{"ledger-visible-p50", "ledger-visible-p99"}, benchVisible},
		{[]string{"ledger-cold-sync", "ledger-cold-sync-rss", "ledger-incremental-bytes", "ledger-lookup-p99", "ledger-proof"}, benchBig},
		{[]string{"index-bbolt-time", "index-bbolt-disk", "index-bbolt-cold", "index-bbolt-warm", "index-bbolt-memory"}, benchIndex},
	}
}

// artifact is entry i, of a usual size.
func artifact(i int) *ledger.AddArtifact {
	sum := func(part string) digest.Digest { return digest.FromString(fmt.Sprint(part, i)) }
	a := &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1,
		Artifact: fmt.Sprintf("docker.io/library/image%d:%d", i%1000, i/1000),
		Digest:   sum("index"), MediaType: "application/vnd.oci.image.index.v1+json", Size: 9000,
		Pieces: sum("pieces"), Upstream: "registry-1.docker.io",
		Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second),
	}
	for _, p := range []string{"linux/amd64", "linux/arm64"} {
		a.Platforms = append(a.Platforms, ledger.Platform{Platform: p, Digest: sum(p), Config: sum("config" + p), Size: 3_000_000})
	}
	return a
}

// appenders is how many clients append in parallel: a batch's worth.
const appenders = 256

// benchAppend compares appends with Tessera's own, both until the block is
// under a signed checkpoint.
func benchAppend(ctx context.Context, dir string) ([]row, error) {
	const n = 20_000
	entries := make([]*ledger.AddArtifact, n)
	raw := make([][]byte, n)
	for i := range entries {
		entries[i] = artifact(i)
		var err error
		if raw[i], err = entries[i].Marshal(); err != nil {
			return nil, err
		}
	}
	skey, _, err := ledger.GenerateKey(origin)
	if err != nil {
		return nil, err
	}
	w, err := replica.OpenWriter(ctx, filepath.Join(dir, "ours"), skey, slog.Default())
	if err != nil {
		return nil, err
	}
	ours, err := rate(n, func(i int) error { _, err := w.Append(ctx, entries[i]); return err })
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	theirs, err := tesseraRate(ctx, filepath.Join(dir, "theirs"), skey, raw)
	if err != nil {
		return nil, err
	}
	return []row{{Name: "ledger-append", Value: ours / theirs, Unit: "x", Ratio: ours / theirs, target: ">= 0.9 x",
		Against: fmt.Sprintf("Tessera's POSIX driver, %d clients, batches of 256: %.0f/s, this ledger %.0f/s", appenders, theirs, ours)}}, nil
}

func tesseraRate(ctx context.Context, dir, skey string, raw [][]byte) (float64, error) {
	signer, _, err := ledger.NewSigner(skey)
	if err != nil {
		return 0, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return 0, err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	a, shutdown, reader, err := tessera.NewAppender(run, driver, tessera.NewAppendOptions().WithCheckpointSigner(signer).
		WithCheckpointInterval(200*time.Millisecond).WithBatching(256, 50*time.Millisecond))
	if err != nil {
		return 0, err
	}
	await := tessera.NewPublicationAwaiter(run, reader.ReadCheckpoint, 25*time.Millisecond)
	perSecond, err := rate(len(raw), func(i int) error {
		_, _, err := await.Await(ctx, a.Add(ctx, tessera.NewEntry(raw[i])))
		return err
	})
	return perSecond, errors.Join(err, shutdown(ctx))
}

// rate does n things by many clients and returns how many a second.
func rate(n int, do func(i int) error) (float64, error) {
	var next atomic.Int64
	var mu sync.Mutex
	var failure error
	var wg sync.WaitGroup
	start := time.Now()
	for range appenders {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					mu.Lock()
					failure = errors.Join(failure, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(start).Seconds(), failure
}

// benchBig measures on a ledger of a million blocks, which a follower copies.
func benchBig(ctx context.Context, dir string) ([]row, error) {
	big, err := makeLedger(filepath.Join(dir, "big"), bigLedger+100)
	if err != nil {
		return nil, err
	}
	url, stop, err := serve(big)
	if err != nil {
		return nil, err
	}
	defer stop()
	source := client.New(url, httpClient)

	big.show(bigLedger)
	cold, err := benchColdSync(ctx, url, big, dir)
	if err != nil {
		return nil, err
	}
	f, err := replica.OpenFollower(ctx, filepath.Join(dir, copied), big.vkey, slog.Default())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	incremental, err := benchIncrement(ctx, filepath.Join(dir, "second"), big, f, source)
	if err != nil {
		return nil, err
	}

	rows := append(cold, row{Name: "ledger-incremental-bytes", Value: float64(incremental) / (1 << 10), Unit: "KiB",
		Ratio: float64(incremental) / (64 << 10), target: "< 64 KiB", Against: "64 KiB for 100 new blocks"})
	queries, err := benchQueries(ctx, f, big)
	return append(rows, queries...), err
}

const (
	coldSyncs = 3      // how often a ledger is copied; the median counts
	copied    = "copy" // the folder of the last copy
)

// benchColdSync compares copying the ledger with hashing its entries: each time
// with hashing right before.
func benchColdSync(ctx context.Context, url string, big *bigTree, dir string) ([]row, error) {
	type round struct {
		floor, took time.Duration
		ratio, rss  float64
	}
	var rounds []round
	for range coldSyncs {
		// What was written before is not to be waited for in this.
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, copied)), syncDisk(dir)); err != nil {
			return nil, err
		}
		start := time.Now()
		for _, e := range big.sizes[:bigLedger] {
			sha256.Sum256(big.zeros[:e])
		}
		r := round{floor: time.Since(start)}
		result, err := syncInProcess(ctx, url, big.vkey, filepath.Join(dir, copied))
		if err != nil {
			return nil, err
		}
		r.took = time.Duration(result.Seconds * float64(time.Second))
		r.ratio, r.rss = result.Seconds/r.floor.Seconds(), result.PeakRSS/(1<<20)
		rounds = append(rounds, r)
	}
	rss := slices.MaxFunc(rounds, func(a, b round) int { return cmp.Compare(a.rss, b.rss) }).rss
	slices.SortFunc(rounds, func(a, b round) int { return cmp.Compare(a.ratio, b.ratio) })
	median := rounds[coldSyncs/2]
	against := fmt.Sprintf("SHA-256 of the same %d entries: %s, sync, verify and index: %s; the median of %d",
		bigLedger, median.floor.Round(time.Millisecond), median.took.Round(time.Millisecond), coldSyncs)
	return []row{
		{Name: "ledger-cold-sync", Value: median.ratio, Unit: "x", Ratio: median.ratio, target: "< 8 x", Against: against},
		{Name: "ledger-cold-sync-rss", Value: rss, Unit: "MB", Ratio: rss / 200, target: "< 200 MB", Against: "200 MB"},
	}, nil
}

// benchIncrement counts what a second follower, which has all but 100 blocks,
// is sent by the first.
func benchIncrement(ctx context.Context, dir string, big *bigTree, f *replica.Follower, source *client.Client) (int64, error) {
	second, err := replica.OpenFollower(ctx, dir, big.vkey, slog.Default())
	if err != nil {
		return 0, err
	}
	defer second.Close()
	counted := &counter{handler: f.Handler()}
	url, stop, err := serve(counted)
	if err != nil {
		return 0, err
	}
	defer stop()
	first := client.New(url, httpClient)
	if _, err := second.Sync(ctx, first); err != nil {
		return 0, err
	}
	big.show(bigLedger + 100)
	if _, err := f.Sync(ctx, source); err != nil {
		return 0, err
	}
	before := counted.sent.Load()
	_, err = second.Sync(ctx, first)
	return counted.sent.Load() - before, err
}

// serve serves a ledger on loopback, at the URL that it returns.
func serve(h http.Handler) (string, func() error, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	return "http://" + l.Addr().String(), server.Close, nil
}

// counter counts the bytes of bodies as they go over the wire.
type counter struct {
	handler http.Handler
	sent    atomic.Int64
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.handler.ServeHTTP(countingWriter{w, c}, r)
}

type countingWriter struct {
	http.ResponseWriter
	c *counter
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.c.sent.Add(int64(n))
	return n, err
}

// benchQueries measures look-ups and proofs on the follower's copy.
func benchQueries(ctx context.Context, f *replica.Follower, big *bigTree) ([]row, error) {
	const n = 20_000
	head, _ := f.Head()
	lookups, proofs := make([]time.Duration, n), make([]time.Duration, n/10)
	images := make([]ledger.Image, n)
	for i := range images {
		var err error
		if images[i], err = ledger.ParseImage(artifact(rand.IntN(bigLedger)).Artifact); err != nil {
			return nil, err
		}
	}
	runtime.GC() // of what was made for this, as testing.B does
	for i, image := range images {
		start := time.Now()
		if _, err := f.Latest(ctx, image); err != nil {
			return nil, err
		}
		lookups[i] = time.Since(start)
	}
	for i := range proofs {
		start := time.Now()
		height := int64(i * 389 % bigLedger)
		proof, err := f.Prove(ctx, height, head)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckRecord(proof, head.Tree.N, head.Tree.Hash, height, big.hashes[tlog.StoredHashIndex(0, height)]); err != nil {
			return nil, err
		}
		proofs[i] = time.Since(start)
	}
	usual, lookup, proof := percentile(lookups, 0.5), percentile(lookups, 0.99), percentile(proofs, 0.5)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return []row{
		{Name: "ledger-lookup-p99", Value: us(lookup), Unit: "us", Ratio: us(lookup) / 100, target: "< 100 us", Against: fmt.Sprintf("100 us, at random blocks; p50 %.1f us", us(usual))},
		{Name: "ledger-proof", Value: us(proof), Unit: "us", Ratio: us(proof) / 50, target: "< 50 us", Against: "50 us to make and check an inclusion proof"},
	}, nil
}
