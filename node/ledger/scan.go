package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"
)

// indexKey is where the index finds a block: the first 8 bytes of a SHA-256.
// Two values may share a key, so what is found is checked against the block.
type indexKey uint64

// imageKey is the key of an image's canonical name.
func imageKey(image string) indexKey {
	h := tlog.RecordHash([]byte(image)) // a domain of its own, apart from content
	return indexKey(binary.BigEndian.Uint64(h[:8]))
}

// blockKey is the key of what is said about a block.
func blockKey(height int64) indexKey {
	h := tlog.RecordHash(binary.BigEndian.AppendUint64([]byte("block "), uint64(height)))
	return indexKey(binary.BigEndian.Uint64(h[:8]))
}

// rotationKey is the key of all blocks that hand the ledger over to another key.
var rotationKey = func() indexKey {
	h := tlog.RecordHash([]byte("rotation"))
	return indexKey(binary.BigEndian.Uint64(h[:8]))
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
	return indexKey(binary.BigEndian.Uint64(raw[:])), true
}

// indexed is what the index keeps of one block.
type indexed struct {
	image string // canonical name; empty for a block that says nothing to us
	keys  []indexKey
}

// scanEntry finds what a block is indexed by. A ledger of a million blocks is
// indexed in seconds because of it: it reads the canonical encoding straight
// through. What it does not understand is left to ParseEntry.
func scanEntry(data []byte) (indexed, error) {
	s := scanner{rest: data}
	out := s.addArtifact()
	if !s.failed && len(s.rest) == 0 {
		return out, nil
	}
	e, err := ParseEntry(data)
	if errors.Is(err, ErrUnknownEntry) {
		return scanOther(data)
	}
	if err != nil {
		return indexed{}, err
	}
	out = indexed{image: e.Artifact, keys: []indexKey{imageKey(e.Artifact)}}
	add := func(d digest.Digest) {
		if k, ok := digestKey([]byte(d)); ok {
			out.keys = append(out.keys, k)
		}
	}
	add(e.Digest)
	for _, p := range e.Platforms {
		add(p.Digest)
		add(p.Config)
	}
	add(e.Pieces)
	return out, nil
}

// scanOther finds what a block is indexed by that is no AddArtifact.
func scanOther(data []byte) (indexed, error) {
	revocation, err := ParseRevocation(data)
	if err == nil {
		return indexed{keys: []indexKey{blockKey(revocation.Block)}}, nil
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return indexed{}, err
	}
	if _, err := ParseRotation(data); err != nil {
		return indexed{}, err
	}
	return indexed{keys: []indexKey{rotationKey}}, nil
}

// scanner reads canonical JSON.
type scanner struct {
	rest   []byte
	failed bool
	keys   []indexKey
}

func (s *scanner) addArtifact() indexed {
	s.literal(`{"type":"AddArtifact","version":1,"artifact":`)
	image := string(s.text())
	s.keys = append(make([]indexKey, 0, 8), imageKey(image))
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
	return indexed{image: image, keys: s.keys}
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
	s.keys = append(s.keys, k)
}

func (s *scanner) number() {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	s.failed = s.failed || n == 0
	s.rest = s.rest[n:]
}
