package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/internal/plain"
)

// Batch is what the index keeps of consecutive blocks of one bundle.
type Batch struct {
	// Bundle has the leaf hashes of all blocks of the bundle, also of those that
	// were skipped.
	Bundle []byte
	// Unread are the blocks that say nothing to this version.
	Unread []Unread

	leaves  []byte      // the blocks' leaf hashes
	offsets []uint32    // of their entries in their bundle
	records []record    // heights are above the batch's first block
	names   []byte      // image names, a line each
	plain   plain.Entry // the block that is being read
}

// Unread is a block that is in no list but that of all blocks.
type Unread struct {
	Above int // the batch's first block
	Err   error
}

// batches are reused: a copy of a long ledger makes thousands of them.
var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty batch.
func NewBatch() *Batch { return batches.Get().(*Batch) }

func (b *Batch) blocks() int { return len(b.offsets) }

// Scan reads a bundle of n entries into the batch: what the index keeps of all
// but the first skip. It reports whether the data is such a bundle. The data is
// changed while it runs, and is as before when it returns.
func (b *Batch) Scan(data []byte, n, skip int) bool {
	*b = Batch{Bundle: b.Bundle[:0], offsets: b.offsets[:0], records: b.records[:0], names: b.names[:0], plain: b.plain}
	at := 0
	for i := range n {
		if len(data)-at < 2 {
			return false
		}
		end := at + 2 + int(binary.BigEndian.Uint16(data[at:]))
		if end > len(data) {
			return false
		}
		// A leaf hash begins with a zero byte, which takes the place of the
		// length's second byte.
		length := data[at+1]
		data[at+1] = 0
		leaf := sha256.Sum256(data[at+1 : end])
		data[at+1] = length
		b.Bundle = append(b.Bundle, leaf[:]...)
		if i >= skip {
			b.offsets = append(b.offsets, uint32(at))
			b.entry(data[at+2:end], i-skip)
		}
		at = end
	}
	b.leaves = b.Bundle[skip*tlog.HashSize:]
	return at == len(data)
}

// entry finds what a block is indexed by.
func (b *Batch) entry(data []byte, above int) {
	first := len(b.records)
	if b.plain.Read(data) && b.addPlain(above, first) {
		b.image(ledger.CanonicalName(b.plain.Artifact))
		return
	}
	b.records = b.records[:first]
	e, err := ledger.ParseEntry(data)
	switch {
	case errors.Is(err, ledger.ErrUnknownEntry):
		err = b.other(data, above)
	case err == nil:
		b.add(ImageKey(ledger.CanonicalName([]byte(e.Artifact))), above, first)
		for _, d := range e.Digests() {
			b.addDigest([]byte(d), above, first)
		}
		b.image(ledger.CanonicalName([]byte(e.Artifact)))
	}
	if err != nil {
		b.Unread = append(b.Unread, Unread{above, err})
	}
}

// addPlain adds the keys of the block that was read. It tells whether all of
// its digests are such.
func (b *Batch) addPlain(above, first int) bool {
	p := &b.plain
	b.add(ImageKey(ledger.CanonicalName(p.Artifact)), above, first)
	ok := b.addDigest(p.Digest, above, first) && b.addDigest(p.Pieces, above, first)
	for _, q := range p.Platforms {
		ok = ok && b.addDigest(q.Digest, above, first) && b.addDigest(q.Config, above, first)
	}
	return ok
}

func (b *Batch) addDigest(d []byte, above, first int) bool {
	k, ok := DigestKey(d)
	if ok {
		b.add(k, above, first)
	}
	return ok
}

// add adds a key of a block whose records begin at first.
func (b *Batch) add(k Key, above, first int) {
	r := makeRecord(k, above)
	// A single-platform image's manifest is its artifact too.
	if !slices.Contains(b.records[first:], r) {
		b.records = append(b.records, r)
	}
}

// other finds the keys of a block that is not an AddArtifact.
func (b *Batch) other(data []byte, above int) error {
	e, err := ledger.ReadEntry(0, data)
	if err != nil {
		return err
	}
	first := len(b.records)
	if e.Rotation != nil {
		b.add(RotationKey, above, first)
		return nil
	}
	if e.Revocation != nil {
		b.add(BlockKey(e.Revocation.Block), above, first)
	}
	repository, d := e.Withdraws()
	for _, k := range []Key{WithdrawalsKey(""), WithdrawalsKey(repository), WithdrawalsKey(repository + "@" + d.String())} {
		b.add(k, above, first)
	}
	return nil
}

func (b *Batch) image(name []byte) {
	if isName(name) {
		b.names = append(append(b.names, name...), '\n')
	}
}
