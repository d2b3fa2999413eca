package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/torchwood"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

func imageName(i int) string { return fmt.Sprintf("docker.io/library/i%d:%d", i%7, i) }

// publishMany appends blocks up to n: block h is of image h, roughly.
func (p *publisher) publishMany(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := int(p.Size()); i < n; i++ {
		wg.Go(func() {
			if _, err := p.Append(t.Context(), artifact(imageName(i), "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// smallSegments gives a follower an index of one segment for each bundle.
func smallSegments(t *testing.T, f *Follower) {
	t.Helper()
	err := f.index.Close()
	if err != nil {
		t.Fatal(err)
	}
	if f.index, err = index.Open(filepath.Join(f.dir.path, indexFolder), torchwood.TileWidth); err != nil {
		t.Fatal(err)
	}
	if f.cache, err = newTileCache(local{f.dir, f.index}); err != nil {
		t.Fatal(err)
	}
}

// checkAll asks for every block in each way.
func checkAll(t *testing.T, l *Ledger, n int) {
	t.Helper()
	l.entries.Purge()
	verifier, err := ledger.NewVerifier(l.Key())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		image, _ := ledger.ParseImage(imageName(i))
		e, err := l.Latest(t.Context(), image)
		if err != nil || e.Artifact.Artifact != imageName(i) {
			t.Fatalf("latest of %s: %+v, %v", image, e, err)
		}
		_, proof, err := l.Block(t.Context(), e.Height)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.VerifyBlock(verifier, e.Data, proof); err != nil {
			t.Fatal(err)
		}
	}
	tags := 0
	for _, r := range l.Repositories() {
		some, err := l.Tags(t.Context(), r, "", n)
		if err != nil {
			t.Fatal(err)
		}
		tags += len(some)
	}
	if tags != n {
		t.Errorf("%d tags, want %d", tags, n)
	}
}

// A file of the index that is cut or altered under a running node is made
// again: the node neither ends nor gives a wrong answer.
func TestDamagedIndexIsMadeAgain(t *testing.T) {
	const n = 600
	p := newPublisher(t)
	p.publishMany(t, n)
	f := newFollower(t, p.vkey)
	smallSegments(t, f)
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(f.dir.path, indexFolder, "000000000256-000000000512.seg")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// The parts of its file, as docs/ledger.md says: each begins at a page of 1 KiB.
	const leaves = 1 << 10
	const offsets = leaves + torchwood.TileWidth*tlog.HashSize
	const records = offsets + torchwood.TileWidth*4
	names := len(whole) - int(binary.BigEndian.Uint64(whole[40:]))
	flip := func(at int) func() error {
		return func() error {
			altered := slices.Clone(whole)
			altered[at] ^= 4
			return os.WriteFile(file, altered, 0o644)
		}
	}
	for name, damage := range map[string]func() error{
		"cut":                  func() error { return os.Truncate(file, int64(len(whole)/2)) },
		"emptied":              func() error { return os.Truncate(file, 0) },
		"a bit of a leaf":      flip(leaves + 40),
		"a bit of an offset":   flip(offsets + 7),
		"a bit of a record":    flip(records + 4),
		"a bit of a name":      flip(names + 8),
		"replaced by a folder": func() error { return errors.Join(os.Truncate(file, 0), os.Remove(file), os.Mkdir(file, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			checkAll(t, f.Ledger, n)
			if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, whole) {
				t.Errorf("the file was not made again: %v", err)
			}
		})
	}
}

// What cannot be made again is an error that names the file.
func TestDamagedIndexWithoutItsBundle(t *testing.T) {
	p := newPublisher(t)
	p.publishMany(t, 300)
	f := newFollower(t, p.vkey)
	smallSegments(t, f)
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(f.dir.path, "tile/entries/000")
	if err := errors.Join(os.Truncate(filepath.Join(f.dir.path, indexFolder, "000000000000-000000000256.seg"), 100), os.Truncate(bundle, 1000)); err != nil {
		t.Fatal(err)
	}
	_, err := f.Entry(t.Context(), 0)
	if corrupt, ok := errors.AsType[*CorruptError](err); !ok || !strings.Contains(err.Error(), "tile/entries/000 is corrupt") {
		t.Errorf("reading a block: %v, %+v", err, corrupt)
	}
}

// A process that dies in a sync leaves what it has stored. The next one
// verifies it, and fetches what is missing or bad, and nothing else.
func TestSyncGoesOnWhereItStopped(t *testing.T) {
	const n = 900
	p := newPublisher(t)
	p.publishMany(t, n)
	var mu sync.Mutex
	var fetched []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if bundle, ok := strings.CutPrefix(r.URL.Path, "/tile/entries/"); ok {
			mu.Lock()
			fetched = append(fetched, bundle)
			mu.Unlock()
		}
		p.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	whole := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, tc := range map[string]struct {
		damage func(entries string) error
		want   []string
	}{
		"all is there":      {func(string) error { return nil }, nil},
		"one is missing":    {func(e string) error { return os.Remove(filepath.Join(e, "001")) }, []string{"001"}},
		"one is cut":        {func(e string) error { return os.Truncate(filepath.Join(e, "001"), 5000) }, []string{"001"}},
		"one is empty":      {func(e string) error { return os.Truncate(filepath.Join(e, "002"), 0) }, []string{"002"}},
		"the last is cut":   {func(e string) error { return os.Truncate(filepath.Join(e, "003.p/132"), 99) }, []string{"003.p/132"}},
		"one has a bad bit": {func(e string) error { return flipBit(filepath.Join(e, "000"), 77_777) }, []string{"000"}},
		"one is too long":   {func(e string) error { return os.Truncate(filepath.Join(e, "002"), 1<<40) }, []string{"002"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first, err := OpenFollower(t.Context(), dir, p.vkey, quiet())
			if err != nil {
				t.Fatal(err)
			}
			smallSegments(t, first)
			if _, err := first.Sync(t.Context(), client.New(s.URL, http.DefaultClient)); err != nil {
				t.Fatal(err)
			}
			// As if it had died before it stored the checkpoint.
			if err := errors.Join(first.Close(), os.Remove(filepath.Join(dir, checkpointFile)), tc.damage(filepath.Join(dir, "tile/entries"))); err != nil {
				t.Fatal(err)
			}
			fetched = nil
			f, err := OpenFollower(t.Context(), dir, p.vkey, quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.index.Blocks() != 0 {
				t.Errorf("%d blocks count as indexed, whose bundles may not be on the disk", f.index.Blocks())
			}
			if _, err := f.Sync(t.Context(), client.New(s.URL, http.DefaultClient)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, fetched); diff != "" {
				t.Errorf("fetched: %s", diff)
			}
			for _, bundle := range []string{"000", "001", "002", "003.p/132"} {
				if !bytes.Equal(whole(filepath.Join(dir, "tile/entries", bundle)), whole(filepath.Join(p.path, "tile/entries", bundle))) {
					t.Errorf("bundle %s is not the publisher's", bundle)
				}
			}
			checkAll(t, f.Ledger, n)
		})
	}
}

func flipBit(file string, at int) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	data[at] ^= 8
	return os.WriteFile(file, data, 0o644)
}

// A bad bundle of the blocks before does not keep a mirror from growing.
func TestGrowthHealsTheLastBundle(t *testing.T) {
	p := newPublisher(t)
	f := newFollower(t, p.vkey)
	source := serve(t, p.Ledger)
	p.publishMany(t, 1)
	if _, err := f.Sync(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	if err := flipBit(filepath.Join(f.dir.path, "tile/entries/000.p/1"), 50); err != nil {
		t.Fatal(err)
	}
	p.publishMany(t, 2)
	if _, err := f.Sync(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	checkAll(t, f.Ledger, 2)
}

// A mirror stores no hashes of entries, and serves them all the same: also
// when its index is away. What no checkpoint of it covers is not served.
func TestMirrorServesEveryTile(t *testing.T) {
	p := newPublisher(t)
	p.publishMany(t, 300)
	f := newFollower(t, p.vkey)
	smallSegments(t, f)
	source := serve(t, p.Ledger)
	if _, err := f.Sync(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.dir.path, "tile/0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("hashes of entries are stored: %v", err)
	}
	get := func(l *Ledger, path string) (int, string) {
		w := httptest.NewRecorder()
		l.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+path, nil))
		data, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(data)
	}
	for _, tile := range []tlog.Tile{
		{L: 0, N: 0, W: 256}, {L: 0, N: 0, W: 3}, {L: 0, N: 1, W: 44}, {L: 0, N: 1, W: 40}, {L: 1, N: 0, W: 1},
		{L: -1, N: 0, W: 256}, {L: -1, N: 1, W: 44}, {L: -1, N: 1, W: 40},
	} {
		tile.H = torchwood.TileHeight
		code, data := get(f.Ledger, torchwood.TilePath(tile))
		wantCode, want := get(p.Ledger, torchwood.TilePath(tile))
		if code != http.StatusOK || code != wantCode || data != want {
			t.Errorf("%s: %d, want %d as the publisher; same: %v", torchwood.TilePath(tile), code, wantCode, data == want)
		}
		if tile.L == 0 {
			if made, err := f.dir.readTile(tile); err != nil || string(made) != want {
				t.Errorf("%s from its bundle: %v", torchwood.TilePath(tile), err)
			}
		}
	}
	p.publishMany(t, 600)
	bundle, err := os.ReadFile(filepath.Join(p.path, "tile/entries/001"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir.path, "tile/entries/001"), bundle, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"tile/entries/001", "tile/0/001", "tile/entries/001.p/45", "tile/1/000.p/2", "tile/63/000.p/1", "tile/0/999"} {
		if code, _ := get(f.Ledger, path); code != http.StatusNotFound {
			t.Errorf("%s, which no checkpoint of this node covers: %d", path, code)
		}
	}
}

// What contradicts the verified ledger, be it signed by the key that counts, replaces
// no tile of it on the disk: a restart finds all that was there.
func TestTilesOfAForkReplaceNothing(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	fork := &publisher{skey: p.skey, vkey: p.vkey, path: t.TempDir()}
	fork.open(t)
	const blocks = torchwood.TileWidth + 20 // a tile of the second level
	p.publishMany(t, blocks)
	fork.mustAppend(t, stolenImage, "another history")
	fork.publishMany(t, blocks+1)
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	var asked sync.Map
	// Each tile is bad when it is asked for first: all are fetched once more.
	hostile := altered(t, fork.Ledger, func(path string, b []byte) []byte {
		if _, again := asked.LoadOrStore(path, true); !again && strings.HasPrefix(path, "/tile/") {
			return make([]byte, len(b))
		}
		return b
	})
	for range 2 {
		if grown, err := f.Sync(t.Context(), hostile); err == nil || grown {
			t.Errorf("the fork: %v, %v", grown, err)
		}
	}
	if n := f.Refused(ledger.EvidenceFork); n == 0 {
		t.Error("the fork was not seen as one")
	}
	f = f.reopen(t, p.vkey)
	if f.Size() != blocks {
		t.Errorf("%d blocks after a restart, want %d", f.Size(), blocks)
	}
}
