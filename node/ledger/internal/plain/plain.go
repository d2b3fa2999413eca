// Package plain reads ledger entries in their canonical encoding without a JSON
// parser and without copying. It imports nothing of this module; package ledger and
// the index of its replicas call it.
package plain

import (
	"bytes"
	"strconv"
)

// Entry is an AddArtifact entry as it stands in its canonical encoding: what most
// blocks are. Its members are parts of the block's bytes. A ledger of a million
// blocks is indexed in seconds, and a block is read in microseconds, because of
// it; a block that it does not understand is left to the JSON parser.
type Entry struct {
	Version                                                   int
	Artifact, Digest, MediaType, Size, Pieces, Upstream, Time []byte
	SeenAt                                                    []byte // of version 2; nil: it is pinned
	Platforms                                                 []Platform
}

// Platform is a platform of an Entry.
type Platform struct{ Platform, Digest, Config, Size []byte }

// Read finds the members in a block. It tells whether it understood it.
func (p *Entry) Read(data []byte) bool {
	s := scanner{rest: data}
	p.Platforms, p.SeenAt = p.Platforms[:0], nil
	s.literal(`{"type":"AddArtifact","version":`)
	p.Version = 1
	if bytes.HasPrefix(s.rest, []byte(`2`)) {
		p.Version = 2
	}
	s.literal(strconv.Itoa(p.Version))
	s.literal(`,"artifact":`)
	p.Artifact = s.text()
	s.literal(`,"digest":`)
	p.Digest = s.text()
	s.literal(`,"mediaType":`)
	p.MediaType = s.text()
	s.literal(`,"size":`)
	p.Size = s.number()
	s.literal(`,"platforms":[`)
	for !s.failed && bytes.HasPrefix(s.rest, []byte(`{`)) {
		p.Platforms = append(p.Platforms, s.platform())
		if !bytes.HasPrefix(s.rest, []byte(`]`)) {
			s.literal(`,`)
		}
	}
	s.literal(`],"pieces":`)
	p.Pieces = s.text()
	s.literal(`,"upstream":`)
	p.Upstream = s.text()
	if p.Version == 2 && bytes.HasPrefix(s.rest, []byte(`,"seenAt":`)) {
		s.literal(`,"seenAt":`)
		p.SeenAt = s.text()
	} else if p.Version == 2 {
		s.literal(`,"pinned":true`)
	}
	s.literal(`,"time":`)
	p.Time = s.text()
	s.literal(`}`)
	return !s.failed && len(s.rest) == 0
}

// scanner reads canonical JSON.
type scanner struct {
	rest   []byte
	failed bool
}

func (s *scanner) platform() (p Platform) {
	s.literal(`{"platform":`)
	p.Platform = s.text()
	s.literal(`,"digest":`)
	p.Digest = s.text()
	s.literal(`,"config":`)
	p.Config = s.text()
	s.literal(`,"size":`)
	p.Size = s.number()
	s.literal(`}`)
	return p
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

func (s *scanner) number() []byte {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	s.failed = s.failed || n == 0
	number := s.rest[:n]
	s.rest = s.rest[n:]
	return number
}
