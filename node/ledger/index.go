package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
)

// The index finds blocks by image name and by any digest that a block names.
// It is derived: each transaction holds the blocks of a batch together with
// the number of blocks indexed so far, so a crash leaves a shorter index, and
// the next start goes on from there or begins anew.
var (
	bucketMeta    = []byte("meta")
	bucketImages  = []byte("images")  // image NUL height -> digest
	bucketDigests = []byte("digests") // sha256 height -> kind
	keySize       = []byte("size")
)

// Kinds of digests that lead to a block.
const (
	kindArtifact = 'a' // the top manifest or index
	kindManifest = 'm' // a platform's manifest
	kindConfig   = 'c' // a platform's config: the image ID
	kindPieces   = 'p' // the piece list
)

type index struct{ db *bbolt.DB }

func openIndex(file string) (*index, error) {
	db, err := bbolt.Open(file, 0o644, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("opening the index %s: %w", file, err)
	}
	x := &index{db: db}
	if err := db.Update(createBuckets); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the index %s: %w", file, err), db.Close())
	}
	return x, nil
}

func createBuckets(tx *bbolt.Tx) error {
	for _, b := range [][]byte{bucketMeta, bucketImages, bucketDigests} {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	return nil
}

// reset empties the index.
func (x *index) reset() error {
	return x.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketImages, bucketDigests} {
			if err := tx.DeleteBucket(b); err != nil {
				return err
			}
		}
		return createBuckets(tx)
	})
}

// size is the number of blocks that are indexed.
func (x *index) size() (n int64) {
	_ = x.db.View(func(tx *bbolt.Tx) error { // the function returns no error
		if v := tx.Bucket(bucketMeta).Get(keySize); len(v) == 8 {
			n = int64(binary.BigEndian.Uint64(v))
		}
		return nil
	})
	return n
}

// indexed is a verified block on its way into the index; artifact is nil for
// a block of an unknown type.
type indexed struct {
	height   int64
	artifact *AddArtifact
}

// add indexes blocks that follow on what is indexed; size is the number of
// blocks after them.
func (x *index) add(blocks []indexed, size int64) error {
	return x.db.Update(func(tx *bbolt.Tx) error {
		images, digests := tx.Bucket(bucketImages), tx.Bucket(bucketDigests)
		for _, b := range blocks {
			if b.artifact == nil {
				continue
			}
			if err := addBlock(images, digests, b); err != nil {
				return fmt.Errorf("indexing block %d: %w", b.height, err)
			}
		}
		return tx.Bucket(bucketMeta).Put(keySize, binary.BigEndian.AppendUint64(nil, uint64(size)))
	})
}

func addBlock(images, digests *bbolt.Bucket, b indexed) error {
	top, err := rawDigest(b.artifact.Digest)
	if err != nil {
		return err
	}
	if err := images.Put(heightKey([]byte(b.artifact.Artifact+"\x00"), b.height), top); err != nil {
		return err
	}
	put := func(d digest.Digest, kind byte) error {
		raw, err := rawDigest(d)
		if err != nil {
			return err
		}
		key := heightKey(raw, b.height)
		if digests.Get(key) != nil {
			return nil // a single-platform image's manifest is its artifact too
		}
		return digests.Put(key, []byte{kind})
	}
	if err := put(b.artifact.Digest, kindArtifact); err != nil {
		return err
	}
	for _, p := range b.artifact.Platforms {
		if err := errors.Join(put(p.Digest, kindManifest), put(p.Config, kindConfig)); err != nil {
			return err
		}
	}
	return put(b.artifact.Pieces, kindPieces)
}

func heightKey(prefix []byte, height int64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(prefix), uint64(height))
}

func rawDigest(d digest.Digest) ([]byte, error) {
	if err := CheckDigest(d); err != nil {
		return nil, err
	}
	return hex.DecodeString(d.Encoded())
}

// latest finds the newest block of an image below a height.
func (x *index) latest(image string, below int64) (height int64, d digest.Digest, ok bool) {
	_ = x.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketImages).Cursor()
		prefix := []byte(image + "\x00")
		k, v := seekBefore(c, heightKey(prefix, below))
		if bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+8 {
			height = int64(binary.BigEndian.Uint64(k[len(prefix):]))
			d, ok = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(v)), true
		}
		return nil
	})
	return height, d, ok
}

// seekBefore finds the last key that is less than key.
func seekBefore(c *bbolt.Cursor, key []byte) (k, v []byte) {
	if k, _ = c.Seek(key); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// heights lists, newest first, up to limit blocks of an image below a height.
func (x *index) heights(image string, below int64, limit int) (out []int64) {
	return x.list(bucketImages, []byte(image+"\x00"), below, limit)
}

// byDigest lists, newest first, up to limit blocks below a height that name a
// digest.
func (x *index) byDigest(d digest.Digest, below int64, limit int) []int64 {
	raw, err := rawDigest(d)
	if err != nil {
		return nil
	}
	return x.list(bucketDigests, raw, below, limit)
}

func (x *index) list(bucket, prefix []byte, below int64, limit int) (out []int64) {
	_ = x.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		for k, _ := seekBefore(c, heightKey(prefix, below)); bytes.HasPrefix(k, prefix) && len(out) < limit; k, _ = c.Prev() {
			out = append(out, int64(binary.BigEndian.Uint64(k[len(prefix):])))
		}
		return nil
	})
	return out
}

// tags lists up to limit tags of a repository ("docker.io/library/alpine")
// that sort after the tag after.
func (x *index) tags(name, after string, limit int) (out []string) {
	prefix := name + ":"
	_ = x.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketImages).Cursor()
		k, _ := c.Seek([]byte(prefix + after))
		for bytes.HasPrefix(k, []byte(prefix)) && len(out) < limit {
			image, _, _ := strings.Cut(string(k), "\x00")
			if tag := image[len(prefix):]; tag > after {
				out = append(out, tag)
			}
			k, _ = c.Seek([]byte(image + "\x01")) // past all heights of this tag
		}
		return nil
	})
	return out
}

// repositories lists all names that have a tag, sorted.
func (x *index) repositories() (out []string) {
	_ = x.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketImages).Cursor()
		for k, _ := c.First(); k != nil; {
			image, _, _ := strings.Cut(string(k), "\x00")
			name := image[:strings.LastIndexByte(image, ':')]
			out = append(out, name)
			k, _ = c.Seek([]byte(name + ";")) // the byte after ':', so past all its tags
		}
		return nil
	})
	slices.Sort(out) // names and keys sort differently around ':'
	return out
}
