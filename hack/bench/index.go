package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// indexCommand has this program index a ledger, by one kind of index, and ask it, so
// that its memory is that index's alone.
const indexCommand = "index"

const (
	kindOurs  = "ours"
	kindBbolt = "bbolt"

	questions     = 4000    // more than a ledger keeps entries in memory
	segmentBlocks = 1 << 16 // in one file of ours, and in one transaction of bbolt
)

// indexResult is what that process prints. Times are of one look-up, the median.
type indexResult struct {
	Seconds       float64 // to index all blocks
	BytesPerBlock float64 // on disk
	Cold, Warm    time.Duration
	Memory        float64 // bytes that the process keeps to itself once all is indexed
}

// askable answers which is the newest block of an image.
type askable interface {
	latest(ctx context.Context, image ledger.Image) (*ledger.Entry, error)
	Close() error
}

// benchIndex compares the ledger's index with bbolt, both of the same blocks. Ours
// also reads the blocks and proves each one, of which bbolt's time has nothing.
func benchIndex(ctx context.Context, dir string) ([]row, error) {
	big, err := makeLedger(filepath.Join(dir, "big"), bigLedger)
	if err != nil {
		return nil, err
	}
	url, stop, err := serve(big)
	if err != nil {
		return nil, err
	}
	defer stop()
	big.show(bigLedger)
	if _, err := syncInProcess(ctx, url, big.vkey, filepath.Join(dir, copied)); err != nil {
		return nil, err
	}
	ours, err := indexInProcess(ctx, kindOurs, filepath.Join(dir, copied), big.vkey)
	if err != nil {
		return nil, err
	}
	theirs, err := indexInProcess(ctx, kindBbolt, big.dir, big.vkey)
	if err != nil {
		return nil, err
	}
	compared := func(name, what string, a, b float64) row {
		return row{Name: "index-bbolt-" + name, Value: a / b, Unit: "x", Ratio: a / b, target: "< 1 x",
			Against: fmt.Sprintf("bbolt, %d blocks: %.4g %s, this index %.4g", bigLedger, b, what, a)}
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return []row{
		compared("time", "s", ours.Seconds, theirs.Seconds),
		compared("disk", "bytes a block", ours.BytesPerBlock, theirs.BytesPerBlock),
		compared("cold", "us a look-up", us(ours.Cold), us(theirs.Cold)),
		compared("warm", "us a look-up", us(ours.Warm), us(theirs.Warm)),
		compared("memory", "MB", ours.Memory/(1<<20), theirs.Memory/(1<<20)),
	}, nil
}

func indexInProcess(ctx context.Context, kind, dir, vkey string) (*indexResult, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, indexCommand, kind, dir, vkey)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("indexing by %s: %w", kind, err)
	}
	result := new(indexResult)
	return result, json.Unmarshal(out, result)
}

// indexAlone is the process's side.
func indexAlone(ctx context.Context, kind, dir, vkey string) (err error) {
	result := new(indexResult)
	var index askable
	if kind == kindOurs {
		index, err = indexOurs(ctx, dir, vkey, result)
	} else {
		index, err = indexBbolt(dir, result)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	debug.FreeOSMemory()
	if result.Memory, err = processMemory("self", "RssAnon:"); err != nil {
		return err
	}
	if err := evict(dir); err != nil {
		return err
	}
	for _, median := range []*time.Duration{&result.Cold, &result.Warm} {
		if *median, err = lookUp(ctx, index); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// lookUp asks for the same images each time.
func lookUp(ctx context.Context, index askable) (median time.Duration, err error) {
	random := rand.New(rand.NewPCG(1, 2))
	times := make([]time.Duration, questions)
	for i := range times {
		image, err := ledger.ParseImage(artifact(random.IntN(bigLedger)).Artifact)
		if err != nil {
			return 0, err
		}
		start := time.Now()
		e, err := index.latest(ctx, image)
		times[i] = time.Since(start)
		if err == nil && e.Artifact.Artifact != image.String() {
			err = fmt.Errorf("block %d is of %s", e.Height, e.Artifact.Artifact)
		}
		if err != nil {
			return 0, fmt.Errorf("looking %s up: %w", image, err)
		}
	}
	return percentile(times, 0.5), nil
}

// oursIndex is a ledger's own.
type oursIndex struct{ *replica.Follower }

func (x oursIndex) latest(ctx context.Context, image ledger.Image) (*ledger.Entry, error) {
	return x.Latest(ctx, image)
}

// indexOurs has the ledger that is in a folder indexed anew.
func indexOurs(ctx context.Context, dir, vkey string, result *indexResult) (askable, error) {
	files := filepath.Join(dir, "index")
	if err := errors.Join(os.RemoveAll(files), syncDisk(dir)); err != nil {
		return nil, err
	}
	start := time.Now()
	f, err := replica.OpenFollower(ctx, dir, vkey, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	result.Seconds = time.Since(start).Seconds()
	size := int64(0)
	err = eachFile(files, func(f *os.File) error {
		info, err := f.Stat()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	// What follows on the last full file is in memory.
	result.BytesPerBlock = float64(size) / float64(bigLedger/segmentBlocks*segmentBlocks)
	return oursIndex{f}, err
}

// evict has the kernel forget what it holds of the files in a folder, as if the
// machine had just started.
func evict(dir string) error {
	if err := syncDisk(dir); err != nil {
		return err
	}
	return eachFile(dir, func(f *os.File) error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) })
}

func eachFile(dir string, do func(f *os.File) error) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(do(f), f.Close())
	})
}
