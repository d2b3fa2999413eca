package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// bigTree is a whole ledger, made in one go: Tessera would take minutes for a
// million blocks. It serves the ledger at any of its sizes.
type bigTree struct {
	dir    string
	vkey   string
	signer note.Signer
	hashes []tlog.Hash // all stored hashes (x/mod/sumdb/tlog)
	sizes  []int32     // of the entries, bytes
	zeros  []byte      // as long as the longest entry
	size   atomic.Int64
}

func makeLedger(dir string, n int) (*bigTree, error) {
	skey, vkey, err := ledger.GenerateKey(origin)
	if err != nil {
		return nil, err
	}
	b := &bigTree{dir: dir, vkey: vkey, zeros: make([]byte, ledger.MaxEntrySize), sizes: make([]int32, 0, n)}
	if b.signer, _, err = ledger.NewSigner(skey); err != nil {
		return nil, err
	}
	var bundle []byte
	for i := range n {
		data, err := artifact(i).Marshal()
		if err != nil {
			return nil, err
		}
		stored, err := tlog.StoredHashes(int64(i), data, b)
		if err != nil {
			return nil, err
		}
		b.hashes = append(b.hashes, stored...)
		b.sizes = append(b.sizes, int32(len(data)))
		if bundle, err = torchwood.AppendTileEntry(bundle, data); err != nil {
			return nil, err
		}
		if (i+1)%torchwood.TileWidth == 0 || i+1 == n {
			t := tlog.Tile{H: torchwood.TileHeight, L: -1, N: int64(i / torchwood.TileWidth), W: i%torchwood.TileWidth + 1}
			t.W = torchwood.TileWidth // the handler cuts partial ones
			if err := write(filepath.Join(dir, torchwood.TilePath(t)), bundle); err != nil {
				return nil, err
			}
			bundle = bundle[:0]
		}
	}
	return b, nil
}

func write(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

// ReadHashes implements tlog.HashReader.
func (b *bigTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = b.hashes[x]
	}
	return out, nil
}

// show makes the ledger have n blocks.
func (b *bigTree) show(n int) { b.size.Store(int64(n)) }

// ServeHTTP serves c2sp.org/tlog-tiles.
func (b *bigTree) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if t, err := torchwood.ParseTilePath(path); err == nil && t.L < 0 && t.W == torchwood.TileWidth {
		http.ServeFile(w, r, filepath.Join(b.dir, path)) // as it is on the disk
		return
	}
	data, err := b.read(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(data)
}

// read makes what is not a file: the checkpoint, hashes, and the partial bundle.
func (b *bigTree) read(path string) ([]byte, error) {
	if path == "checkpoint" {
		root, err := tlog.TreeHash(b.size.Load(), b)
		if err != nil {
			return nil, err
		}
		return note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, b.size.Load(), root)}, b.signer)
	}
	t, err := torchwood.ParseTilePath(path)
	if err != nil {
		return nil, err
	}
	if t.L >= 0 {
		return tlog.ReadTileData(t, b)
	}
	width := t.W
	t.W = torchwood.TileWidth
	data, err := os.ReadFile(filepath.Join(b.dir, torchwood.TilePath(t)))
	if err != nil {
		return nil, err
	}
	rest := data
	for range width {
		if _, rest, err = torchwood.ReadTileEntry(rest); err != nil {
			return nil, err
		}
	}
	return data[:len(data)-len(rest)], nil
}
