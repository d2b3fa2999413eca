package publish

import (
	"crypto"
	"crypto/sha256"
	"fmt"
	"go/parser"
	"go/token"
	"hash"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// hashed counts the bytes that this process gives to SHA-256 by way of the digest
// package, which asks the crypto package for it.
var hashed atomic.Int64

type countingHash struct{ hash.Hash }

func (h countingHash) Write(p []byte) (int, error) {
	hashed.Add(int64(len(p)))
	return h.Hash.Write(p)
}

func init() {
	crypto.RegisterHash(crypto.SHA256, func() hash.Hash { return countingHash{sha256.New()} })
}

// readBytes is what all read calls of this process have brought, from files and
// from sockets (proc(5), /proc/PID/io).
func readBytes(t *testing.T) (n int64) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(data), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// work is what one publication cost for each byte of the image.
type work struct{ passes, reads float64 }

func (w *env) workOf(t *testing.T, name string, size int64) work {
	t.Helper()
	before, read := hashed.Load(), readBytes(t)
	w.mustPublish(t, name)
	return work{float64(hashed.Load()-before) / float64(size), float64(readBytes(t)-read) / float64(size)}
}

func noise(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	return data
}

// A byte that is published is read once, from the upstream's connection, and
// hashed on its way to the disk: for its blob's digest and for its piece's. The
// first piece's digest is that of the blob so far, and costs nothing.
func TestPassesOverPublishedBytes(t *testing.T) {
	const slack = 0.02 // manifests, ledger, HTTP headers
	for _, tc := range []struct {
		name   string
		layers []int
		want   work
	}{
		{"small", []int{pieces.Size, pieces.Size - 1, 1 << 20}, work{1, 1}},
		{"large", []int{10 * pieces.Size}, work{1.9, 1}},
		{"uneven", []int{2*pieces.Size + 1, 1 << 20, 3*pieces.Size - 1}, work{1 + (3*pieces.Size)/(5*pieces.Size+(1<<20)+0.0), 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newEnv(t, OnPull{})
			var size int64
			var layers [][]byte
			for _, n := range tc.layers {
				layers = append(layers, noise(n))
				size += int64(n)
			}
			d := w.registry.AddIndex(w.registry.AddImage(linux, tc.name, layers...))
			for _, tag := range []string{"1", "again"} {
				w.registry.Tag("library/"+tc.name, tag, d)
			}
			got := w.workOf(t, tc.name+":1", size)
			t.Logf("%.3f passes of SHA-256 and %.3f reads per byte", got.passes, got.reads)
			if got.passes > tc.want.passes+slack || got.reads > tc.want.reads+slack {
				t.Errorf("%.3f passes of SHA-256 and %.3f reads per byte: at most %.3f and %.3f", got.passes, got.reads, tc.want.passes, tc.want.reads)
			}
			if got.passes < 1 || got.reads < 1 {
				t.Errorf("%.3f passes and %.3f reads: nothing can be verified by less than one of each", got.passes, got.reads)
			}
			again := w.workOf(t, tc.name+":again", size)
			t.Logf("under another tag: %.3f passes and %.3f reads", again.passes, again.reads)
			if again.passes > slack || again.reads > slack {
				t.Errorf("another tag of what is there: %.3f passes and %.3f reads per byte: at most %.3f", again.passes, again.reads, slack)
			}
		})
	}
}

// A process that ended before it made the block has left content that this one has
// not hashed: it is read once, and hashed as what comes from the upstream is.
func TestPassesOverContentOfADeadProcess(t *testing.T) {
	const size, slack = 10 * pieces.Size, 0.02
	w := newEnv(t, OnPull{})
	w.registry.Tag("library/large", "1", w.registry.AddIndex(w.registry.AddImage(linux, "large", noise(size))))
	first := w.mustPublish(t, "large:1")
	s, err := store.Open(filepath.Join(w.dir, "store"), store.Config{Pinned: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	next := newEnv(t, OnPull{}, func(c *Config) { c.Store, c.Upstreams = s, w.Upstreams })
	blobs := w.registry.Counts().Blobs
	got := next.workOf(t, "large:1", size)
	t.Logf("%.3f passes of SHA-256 and %.3f reads per byte", got.passes, got.reads)
	if got.passes > 1.9+slack || got.reads > 1+slack || w.registry.Counts().Blobs != blobs {
		t.Errorf("%.3f passes of SHA-256 and %.3f reads per byte, %d blobs fetched again: at most 1.9 and 1, and none", got.passes, got.reads, w.registry.Counts().Blobs-blobs)
	}
	if again := next.mustPublish(t, "large:1"); piecesOf(t, again) != piecesOf(t, first) {
		t.Error("it has another piece list now")
	}
}

// piecesOf is the piece list that a block names.
func piecesOf(t *testing.T, b *control.Block) digest.Digest {
	t.Helper()
	e, err := ledger.ParseEntry([]byte(b.Entry))
	if err != nil {
		t.Fatal(err)
	}
	return e.Pieces
}

// Every byte of an image counts, also those of its manifests: none is hashed
// more than twice.
func TestPassesOverManifests(t *testing.T) {
	w := newEnv(t, OnPull{})
	annotations := map[string]string{"padding": strings.Repeat("x", 1<<20)}
	config := w.registry.AddJSON(upstreamtest.OCIConfig, map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Labels": annotations}})
	layer := w.registry.Add(upstreamtest.OCILayer, []byte("layer"))
	m := w.registry.AddJSON(upstreamtest.OCIManifest, map[string]any{
		"schemaVersion": 2, "mediaType": upstreamtest.OCIManifest, "annotations": annotations, "config": config,
		"layers": []upstreamtest.Descriptor{{MediaType: upstreamtest.OCILayer, Digest: layer, Size: int64(len("layer"))}},
	})
	w.registry.Tag("library/padded", "1", m.Digest)
	got := w.workOf(t, "padded:1", m.Size)
	t.Logf("%.3f passes of SHA-256 per byte of the manifest, beside as large a config", got.passes)
	if got.passes < 2 || got.passes > 3.1 {
		t.Errorf("%.3f passes: at most two over the manifest, and one over the config", got.passes)
	}
}

// What is not counted above would be hashed by this import.
func TestHashesAreCounted(t *testing.T) {
	for _, folder := range []string{"bucket", "durable", "mirror", "pieces", "publish", "store", "transfer", "upstream"} {
		err := filepath.WalkDir(filepath.Join("..", folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, i := range file.Imports {
				if i.Path.Value == `"crypto/sha256"` {
					t.Errorf("%s imports crypto/sha256: use digest.SHA256, whose bytes a test counts", path)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
