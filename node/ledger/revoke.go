package ledger

import (
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

const (
	// TypeRevokeArtifact withdraws the artifact of an earlier block.
	TypeRevokeArtifact = "RevokeArtifact"
	maxReason          = 1024 // bytes
)

// RevokeArtifact is the entry, of version 1, that withdraws an earlier block's
// artifact, and no other block: from then on mirrors refuse it. The block itself
// stays. It is encoded like AddArtifact. Version 2 is RevokeDigest.
type RevokeArtifact struct {
	Type    string `json:"type"`    // TypeRevokeArtifact
	Version int    `json:"version"` // 1
	// Artifact and Digest are those of the withdrawn block.
	Artifact string        `json:"artifact"`
	Digest   digest.Digest `json:"digest"`
	// Block is the height of the withdrawn block.
	Block int64 `json:"block"`
	// Reason tells people why: one line of text.
	Reason string `json:"reason"`
	// Time is when the publisher recorded it: RFC 3339, UTC, whole seconds.
	Time time.Time `json:"time"`
}

// Marshal encodes the entry.
func (e *RevokeArtifact) Marshal() ([]byte, error) { return marshal(e) }

// ParseRevocation decodes and checks a RevokeArtifact entry.
func ParseRevocation(data []byte) (*RevokeArtifact, error) {
	e := new(RevokeArtifact)
	return e, parse(data, TypeRevokeArtifact, 1, e)
}

func (e *RevokeArtifact) validate() error {
	if e.Type != TypeRevokeArtifact || e.Version != 1 {
		return fmt.Errorf("type %q version %d", e.Type, e.Version)
	}
	if e.Block < 0 {
		return fmt.Errorf("block %d", e.Block)
	}
	return errors.Join(checkReason(e.Reason), checkArtifact(e.Artifact, e.Digest, e.Time))
}

func checkReason(reason string) error {
	if reason == "" || len(reason) > maxReason || !utf8.ValidString(reason) {
		return fmt.Errorf("reason of %d bytes: want between 1 and %d, in UTF-8", len(reason), maxReason)
	}
	for _, c := range reason {
		if unicode.IsControl(c) {
			return errors.New("reason: want one line of text without control characters")
		}
	}
	return nil
}
