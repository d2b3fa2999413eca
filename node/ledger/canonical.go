package ledger

import (
	"bytes"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger/internal/plain"
)

// decode reads a block into an AddArtifact. It does so only if the bytes are
// what encode would make of the result.
func (e *AddArtifact) decode(data []byte) bool {
	for _, c := range data {
		if c < ' ' || c > '~' {
			return false // encode may write it in another way
		}
	}
	var space [16]plain.Platform
	p := plain.Entry{Platforms: space[:0]}
	if !p.Read(data) || bytes.Contains(data, []byte(",]")) {
		return false
	}
	at, ok := canonicalTime(p.Time)
	if !ok {
		return false
	}
	var seen time.Time
	if p.SeenAt != nil {
		if seen, ok = canonicalTime(p.SeenAt); !ok {
			return false
		}
	}
	size, ok := canonicalNumber(p.Size)
	*e = AddArtifact{Type: TypeAddArtifact, Version: p.Version, Artifact: string(p.Artifact), Digest: digest.Digest(p.Digest),
		MediaType: string(p.MediaType), Size: size, Platforms: make([]Platform, len(p.Platforms)),
		Pieces: digest.Digest(p.Pieces), Upstream: string(p.Upstream),
		SeenAt: seen, Pinned: p.Version == 2 && p.SeenAt == nil, Time: at}
	for i, q := range p.Platforms {
		size, canonical := canonicalNumber(q.Size)
		ok = ok && canonical
		e.Platforms[i] = Platform{Platform: string(q.Platform), Digest: digest.Digest(q.Digest), Config: digest.Digest(q.Config), Size: size}
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
