package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// What bbolt keeps is what the ledger's index keeps: by the same keys of 6 bytes, each
// with the height that it leads to; each block's leaf hash, and where its entry is;
// and the tags of each repository.
var (
	keysBucket   = []byte("keys")
	blocksBucket = []byte("blocks")
	namesBucket  = []byte("names")
)

const boltKey = 6 // bytes of a hash

type boltIndex struct {
	db  *bbolt.DB
	dir string // of the bundles
}

func (x *boltIndex) Close() error { return x.db.Close() }

// indexBbolt puts the blocks of the bundles in a folder into a database there. Only
// the database is timed: a transaction for as many blocks as one file of ours has,
// in the order of the keys, and nothing is waited for before the end.
func indexBbolt(dir string, result *indexResult) (askable, error) {
	file := filepath.Join(dir, "bbolt.db")
	db, err := bbolt.Open(file, 0o644, &bbolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		return nil, err
	}
	x := &boltIndex{db, dir}
	for from := 0; from < bigLedger; from += segmentBlocks {
		b, err := x.read(from, min(from+segmentBlocks, bigLedger))
		if err != nil {
			return nil, errors.Join(err, x.Close())
		}
		start := time.Now()
		if err := db.Update(b.put); err != nil {
			return nil, errors.Join(err, x.Close())
		}
		result.Seconds += time.Since(start).Seconds()
	}
	start := time.Now()
	if err := db.Sync(); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	result.Seconds += time.Since(start).Seconds()
	info, err := os.Stat(file)
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	result.BytesPerBlock = float64(info.Size()) / bigLedger
	// Opened anew: what it has touched while it wrote could not be evicted.
	if err := x.Close(); err != nil {
		return nil, err
	}
	if x.db, err = bbolt.Open(file, 0o644, &bbolt.Options{ReadOnly: true}); err != nil {
		return nil, err
	}
	return x, nil
}

// boltBlocks is what is put in one transaction.
type boltBlocks struct {
	keys, names [][]byte
	from        int
	blocks      [][]byte
}

func (b *boltBlocks) put(tx *bbolt.Tx) error {
	for name, keys := range map[string][][]byte{string(keysBucket): b.keys, string(namesBucket): b.names} {
		bucket, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		slices.SortFunc(keys, bytes.Compare)
		for _, k := range keys {
			if err := bucket.Put(k, nil); err != nil {
				return err
			}
		}
	}
	bucket, err := tx.CreateBucketIfNotExists(blocksBucket)
	if err != nil {
		return err
	}
	for i, value := range b.blocks {
		if err := bucket.Put(binary.BigEndian.AppendUint64(nil, uint64(b.from+i)), value); err != nil {
			return err
		}
	}
	return nil
}

// read reads the blocks of some bundles.
func (x *boltIndex) read(from, to int) (*boltBlocks, error) {
	b := &boltBlocks{from: from}
	for height := from; height < to; {
		data, err := os.ReadFile(x.bundle(height))
		if err != nil {
			return nil, err
		}
		for rest := data; len(rest) > 0; height++ {
			at := len(data) - len(rest)
			var entry []byte
			if entry, rest, err = torchwood.ReadTileEntry(rest); err != nil {
				return nil, err
			}
			if err := b.add(height, at, entry); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

func (b *boltBlocks) add(height, at int, entry []byte) error {
	e, err := ledger.ParseEntry(entry)
	if err != nil {
		return err
	}
	leaf := tlog.RecordHash(entry)
	b.blocks = append(b.blocks, binary.BigEndian.AppendUint32(leaf[:], uint32(at)))
	b.names = append(b.names, []byte(strings.Replace(e.Artifact, ":", "\x00", 1)))
	b.keys = append(b.keys, binary.BigEndian.AppendUint64(boltKeyOf(e.Artifact), uint64(height)))
	for _, d := range e.Digests() {
		k, err := hex.DecodeString(d.Encoded()[:2*boltKey])
		if err != nil {
			return err
		}
		b.keys = append(b.keys, binary.BigEndian.AppendUint64(k, uint64(height)))
	}
	return nil
}

func boltKeyOf(image string) []byte {
	sum := sha256.Sum256([]byte(image))
	return slices.Clone(sum[:boltKey])
}

// bundle is the file of the bundle that a block is in.
func (x *boltIndex) bundle(height int) string {
	t := tlog.Tile{H: torchwood.TileHeight, L: -1, N: int64(height / torchwood.TileWidth), W: torchwood.TileWidth}
	return filepath.Join(x.dir, torchwood.TilePath(t))
}

func (x *boltIndex) latest(_ context.Context, image ledger.Image) (*ledger.Entry, error) {
	var height int64
	var value []byte
	err := x.db.View(func(tx *bbolt.Tx) error {
		prefix := boltKeyOf(image.String())
		c := tx.Bucket(keysBucket).Cursor()
		k, _ := c.Seek(binary.BigEndian.AppendUint64(slices.Clone(prefix), 1<<63))
		if k == nil {
			k, _ = c.Last()
		} else {
			k, _ = c.Prev()
		}
		if !bytes.HasPrefix(k, prefix) {
			return ledger.ErrNotFound
		}
		height = int64(binary.BigEndian.Uint64(k[boltKey:]))
		value = bytes.Clone(tx.Bucket(blocksBucket).Get(k[boltKey:]))
		return nil
	})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(x.bundle(int(height)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 2<<10) // no entry here is longer
	n, _ := f.ReadAt(buf, int64(binary.BigEndian.Uint32(value[tlog.HashSize:])))
	entry, _, err := torchwood.ReadTileEntry(buf[:n])
	if err == nil && tlog.RecordHash(entry) != tlog.Hash(value[:tlog.HashSize]) {
		err = fmt.Errorf("block %d is another one", height)
	}
	if err != nil {
		return nil, err
	}
	return ledger.ReadEntry(height, entry)
}
