package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// indexKey is where the index finds a block: the first 6 bytes of a SHA-256.
// Two values may share a key, so what is found is checked against the block.
type indexKey uint64

func keyOf(sum []byte) indexKey { return indexKey(binary.BigEndian.Uint64(sum) >> 16) }

// imageKey is the key of an image's canonical name.
func imageKey(image []byte) indexKey {
	var space [128]byte
	h := sha256.Sum256(append(space[:1], image...)) // a domain of its own, apart from content
	return keyOf(h[:])
}

// blockKey is the key of what is said about a block.
func blockKey(height int64) indexKey {
	h := tlog.RecordHash(binary.BigEndian.AppendUint64([]byte("block "), uint64(height)))
	return keyOf(h[:])
}

// withdrawalsKey is the key of what withdraws or restores something: of a digest
// of a repository ("docker.io/library/alpine@sha256:..."), of a repository, or,
// if it is empty, of any.
func withdrawalsKey(of string) indexKey {
	h := tlog.RecordHash([]byte("withdrawn " + of))
	return keyOf(h[:])
}

// rotationKey is the key of all blocks that hand the ledger over to another key.
var rotationKey = func() indexKey {
	h := tlog.RecordHash([]byte("rotation"))
	return keyOf(h[:])
}()

// digestKey is the key of a SHA-256 digest ("sha256:" and 64 hex digits).
func digestKey(d []byte) (indexKey, bool) {
	const prefix = "sha256:"
	if len(d) != len(prefix)+64 || !bytes.HasPrefix(d, []byte(prefix)) {
		return 0, false
	}
	var raw [8]byte
	if _, err := hex.Decode(raw[:], d[len(prefix):len(prefix)+16]); err != nil {
		return 0, false
	}
	return keyOf(raw[:]), true
}

// scan reads a bundle of n entries into the batch: what the index keeps of all
// but the first skip. It tells whether it is a bundle. For a moment it alters
// the bytes.
func (b *batch) scan(data []byte, n, skip int) bool {
	*b = batch{bundle: b.bundle[:0], offsets: b.offsets[:0], records: b.records[:0], names: b.names[:0], plain: b.plain}
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
		b.bundle = append(b.bundle, leaf[:]...)
		if i >= skip {
			b.offsets = append(b.offsets, uint32(at))
			b.entry(data[at+2:end], i-skip)
		}
		at = end
	}
	b.leaves = b.bundle[skip*tlog.HashSize:]
	return at == len(data)
}

// entry finds what a block is indexed by.
func (b *batch) entry(data []byte, above int) {
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
		b.add(imageKey(ledger.CanonicalName([]byte(e.Artifact))), above, first)
		for _, d := range e.Digests() {
			b.addDigest([]byte(d), above, first)
		}
		b.image(ledger.CanonicalName([]byte(e.Artifact)))
	}
	if err != nil {
		b.unread = append(b.unread, unreadBlock{above, err})
	}
}

// addPlain adds the keys of the block that was read. It tells whether all of
// its digests are such.
func (b *batch) addPlain(above, first int) bool {
	p := &b.plain
	b.add(imageKey(ledger.CanonicalName(p.Artifact)), above, first)
	ok := b.addDigest(p.Digest, above, first) && b.addDigest(p.Pieces, above, first)
	for _, q := range p.Platforms {
		ok = ok && b.addDigest(q.Digest, above, first) && b.addDigest(q.Config, above, first)
	}
	return ok
}

func (b *batch) addDigest(d []byte, above, first int) bool {
	k, ok := digestKey(d)
	if ok {
		b.add(k, above, first)
	}
	return ok
}

// add adds a key of a block whose records begin at first.
func (b *batch) add(k indexKey, above, first int) {
	r := makeRecord(k, above)
	// A single-platform image's manifest is its artifact too.
	if !slices.Contains(b.records[first:], r) {
		b.records = append(b.records, r)
	}
}

// other finds the keys of a block that is not an AddArtifact.
func (b *batch) other(data []byte, above int) error {
	e, err := ledger.ReadEntry(0, data)
	if err != nil {
		return err
	}
	first := len(b.records)
	if e.Rotation != nil {
		b.add(rotationKey, above, first)
		return nil
	}
	if e.Revocation != nil {
		b.add(blockKey(e.Revocation.Block), above, first)
	}
	repository, d := e.Withdraws()
	for _, k := range []indexKey{withdrawalsKey(""), withdrawalsKey(repository), withdrawalsKey(repository + "@" + d.String())} {
		b.add(k, above, first)
	}
	return nil
}

func (b *batch) image(name []byte) {
	if isName(name) {
		b.names = append(append(b.names, name...), '\n')
	}
}
