package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"
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
	*b = batch{bundle: b.bundle[:0], offsets: b.offsets[:0], records: b.records[:0], names: b.names[:0]}
	at := 0
	for i := range n {
		if len(data)-at < 2 {
			return false
		}
		end := at + 2 + int(binary.BigEndian.Uint16(data[at:]))
		if end > len(data) {
			return false
		}
		// A leaf hash begins with a zero byte, for which there is room.
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

// entry finds what a block is indexed by. A ledger of a million blocks is
// indexed in seconds because of it: it reads the canonical encoding straight
// through. What it does not understand is left to ParseEntry.
func (b *batch) entry(data []byte, above int) {
	s := scanner{rest: data, batch: b, above: above, first: len(b.records)}
	image := s.addArtifact()
	if !s.failed && len(s.rest) == 0 {
		b.image(image)
		return
	}
	b.records = b.records[:s.first]
	e, err := ParseEntry(data)
	switch {
	case errors.Is(err, ErrUnknownEntry):
		err = s.other(data)
	case err == nil:
		s.add(imageKey([]byte(e.Artifact)))
		digests := []digest.Digest{e.Digest, e.Pieces}
		for _, p := range e.Platforms {
			digests = append(digests, p.Digest, p.Config)
		}
		for _, d := range digests {
			if k, ok := digestKey([]byte(d)); ok {
				s.add(k)
			}
		}
		b.image([]byte(e.Artifact))
	}
	if err != nil {
		b.unread = append(b.unread, unreadBlock{above, err})
	}
}

// other finds what a block is indexed by that is no AddArtifact.
func (s *scanner) other(data []byte) error {
	revocation, err := ParseRevocation(data)
	if err == nil {
		s.add(blockKey(revocation.Block))
		return nil
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	if _, err := ParseRotation(data); err != nil {
		return err
	}
	s.add(rotationKey)
	return nil
}

func (b *batch) image(name []byte) {
	if isName(name) {
		b.names = append(append(b.names, name...), '\n')
	}
}

// scanner reads canonical JSON.
type scanner struct {
	rest   []byte
	failed bool
	batch  *batch // for the records
	above  int    // of the block above the batch's first one
	first  int    // the block's first record
}

// add adds a key of the block.
func (s *scanner) add(k indexKey) {
	r := makeRecord(k, s.above)
	// A single-platform image's manifest is its artifact too.
	if !slices.Contains(s.batch.records[s.first:], r) {
		s.batch.records = append(s.batch.records, r)
	}
}

func (s *scanner) addArtifact() (image []byte) {
	s.literal(`{"type":"AddArtifact","version":1,"artifact":`)
	image = s.text()
	s.add(imageKey(image))
	s.literal(`,"digest":`)
	s.digest()
	s.literal(`,"mediaType":`)
	s.text()
	s.literal(`,"size":`)
	s.number()
	s.literal(`,"platforms":[`)
	for !s.failed && bytes.HasPrefix(s.rest, []byte(`{`)) {
		s.platform()
		if !bytes.HasPrefix(s.rest, []byte(`]`)) {
			s.literal(`,`)
		}
	}
	s.literal(`],"pieces":`)
	s.digest()
	s.literal(`,"upstream":`)
	s.text()
	s.literal(`,"time":`)
	s.text()
	s.literal(`}`)
	return image
}

func (s *scanner) platform() {
	s.literal(`{"platform":`)
	s.text()
	s.literal(`,"digest":`)
	s.digest()
	s.literal(`,"config":`)
	s.digest()
	s.literal(`,"size":`)
	s.number()
	s.literal(`}`)
}

func (s *scanner) literal(want string) {
	if s.failed || len(s.rest) < len(want) || string(s.rest[:len(want)]) != want {
		s.failed = true
		return
	}
	s.rest = s.rest[len(want):]
}

// text reads a string without escapes.
func (s *scanner) text() []byte {
	s.literal(`"`)
	end := bytes.IndexByte(s.rest, '"')
	if s.failed || end < 0 || bytes.IndexByte(s.rest[:end], '\\') >= 0 {
		s.failed = true
		return nil
	}
	text := s.rest[:end]
	s.rest = s.rest[end+1:]
	return text
}

func (s *scanner) digest() {
	k, ok := digestKey(s.text())
	s.failed = s.failed || !ok
	s.add(k)
}

func (s *scanner) number() {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	s.failed = s.failed || n == 0
	s.rest = s.rest[n:]
}
