package ledger

import (
	"bytes"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// plain is an AddArtifact as it stands in its canonical encoding: what most
// blocks are. Its members are parts of the block's bytes. A ledger of a million
// blocks is indexed in seconds, and a block is read in microseconds, because of
// it; a block that it does not understand is left to the JSON parser.
type plain struct {
	version                                                   int
	artifact, digest, mediaType, size, pieces, upstream, time []byte
	seenAt                                                    []byte // of version 2; nil: it is pinned
	platforms                                                 []plainPlatform
}

type plainPlatform struct{ platform, digest, config, size []byte }

// read finds the members in a block. It tells whether it understood it.
func (p *plain) read(data []byte) bool {
	s := scanner{rest: data}
	p.platforms, p.seenAt = p.platforms[:0], nil
	s.literal(`{"type":"AddArtifact","version":`)
	p.version = 1
	if bytes.HasPrefix(s.rest, []byte(`2`)) {
		p.version = 2
	}
	s.literal(strconv.Itoa(p.version))
	s.literal(`,"artifact":`)
	p.artifact = s.text()
	s.literal(`,"digest":`)
	p.digest = s.text()
	s.literal(`,"mediaType":`)
	p.mediaType = s.text()
	s.literal(`,"size":`)
	p.size = s.number()
	s.literal(`,"platforms":[`)
	for !s.failed && bytes.HasPrefix(s.rest, []byte(`{`)) {
		p.platforms = append(p.platforms, s.platform())
		if !bytes.HasPrefix(s.rest, []byte(`]`)) {
			s.literal(`,`)
		}
	}
	s.literal(`],"pieces":`)
	p.pieces = s.text()
	s.literal(`,"upstream":`)
	p.upstream = s.text()
	if p.version == 2 && bytes.HasPrefix(s.rest, []byte(`,"seenAt":`)) {
		s.literal(`,"seenAt":`)
		p.seenAt = s.text()
	} else if p.version == 2 {
		s.literal(`,"pinned":true`)
	}
	s.literal(`,"time":`)
	p.time = s.text()
	s.literal(`}`)
	return !s.failed && len(s.rest) == 0
}

// decode reads a block into an AddArtifact. It does so only if the bytes are
// what encode would make of the result.
func (e *AddArtifact) decode(data []byte) bool {
	for _, c := range data {
		if c < ' ' || c > '~' {
			return false // encode may write it in another way
		}
	}
	var space [16]plainPlatform
	p := plain{platforms: space[:0]}
	if !p.read(data) || bytes.Contains(data, []byte(",]")) {
		return false
	}
	at, ok := canonicalTime(p.time)
	if !ok {
		return false
	}
	var seen time.Time
	if p.seenAt != nil {
		if seen, ok = canonicalTime(p.seenAt); !ok {
			return false
		}
	}
	size, ok := canonicalNumber(p.size)
	*e = AddArtifact{Type: TypeAddArtifact, Version: p.version, Artifact: string(p.artifact), Digest: digest.Digest(p.digest),
		MediaType: string(p.mediaType), Size: size, Platforms: make([]Platform, len(p.platforms)),
		Pieces: digest.Digest(p.pieces), Upstream: string(p.upstream),
		SeenAt: seen, Pinned: p.version == 2 && p.seenAt == nil, Time: at}
	for i, q := range p.platforms {
		size, canonical := canonicalNumber(q.size)
		ok = ok && canonical
		e.Platforms[i] = Platform{Platform: string(q.platform), Digest: digest.Digest(q.digest), Config: digest.Digest(q.config), Size: size}
	}
	return ok
}

func canonicalTime(text []byte) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, string(text))
	return at, err == nil && at.Format(time.RFC3339Nano) == string(text)
}

func canonicalNumber(digits []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(digits), 10, 64)
	return n, err == nil && (len(digits) == 1 || digits[0] != '0')
}

// scanner reads canonical JSON.
type scanner struct {
	rest   []byte
	failed bool
}

func (s *scanner) platform() (p plainPlatform) {
	s.literal(`{"platform":`)
	p.platform = s.text()
	s.literal(`,"digest":`)
	p.digest = s.text()
	s.literal(`,"config":`)
	p.config = s.text()
	s.literal(`,"size":`)
	p.size = s.number()
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
