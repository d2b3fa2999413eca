package ledger

import (
	"context"
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

// RevokeArtifact is the entry that withdraws an earlier block's artifact: from
// then on mirrors refuse it. The block itself stays. It is encoded like
// AddArtifact.
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

// VerifyRevocation is VerifyBlock for an entry that withdraws another block.
func VerifyRevocation(v *Verifier, entry, proof []byte) (*VerifiedBlock, *RevokeArtifact, error) {
	b, err := proveBlock(v, entry, proof)
	if err != nil {
		return nil, nil, err
	}
	r, err := ParseRevocation(entry)
	return b, r, err
}

func (e *RevokeArtifact) validate() error {
	if e.Type != TypeRevokeArtifact || e.Version != 1 {
		return fmt.Errorf("type %q version %d", e.Type, e.Version)
	}
	if e.Block < 0 {
		return fmt.Errorf("block %d", e.Block)
	}
	if e.Reason == "" || len(e.Reason) > maxReason || !utf8.ValidString(e.Reason) {
		return fmt.Errorf("reason of %d bytes: want between 1 and %d, in UTF-8", len(e.Reason), maxReason)
	}
	for _, c := range e.Reason {
		if unicode.IsControl(c) {
			return errors.New("reason: want one line of text without control characters")
		}
	}
	return checkArtifact(e.Artifact, e.Digest, e.Time)
}

// of tells whether the entry withdraws a block.
func (e *RevokeArtifact) of(block *Entry) bool {
	return e.Block == block.Height && block.Artifact != nil && e.Artifact == block.Artifact.Artifact && e.Digest == block.Artifact.Digest
}

// RevokedBy finds the block that withdraws a block; nil if there is none.
func (l *Ledger) RevokedBy(ctx context.Context, block *Entry) (*Entry, error) {
	found, err := l.find(ctx, blockKey(block.Height), l.Size(), 1, func(e *Entry) bool {
		return e.Revocation != nil && e.Height > block.Height && e.Revocation.of(block)
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// Revoke withdraws the artifact of a block, and returns the height of the
// block that does so when it is on disk and under a signed checkpoint. If the
// block is withdrawn already, that is the answer.
func (w *Writer) Revoke(ctx context.Context, height int64, reason string, now time.Time) (int64, error) {
	block, err := w.Entry(ctx, height)
	if err != nil {
		return 0, err
	}
	if block.Artifact == nil {
		return 0, fmt.Errorf("block %d records no artifact: there is nothing to revoke", height)
	}
	e := &RevokeArtifact{
		Type: TypeRevokeArtifact, Version: 1, Artifact: block.Artifact.Artifact, Digest: block.Artifact.Digest,
		Block: height, Reason: reason, Time: now.UTC().Truncate(time.Second),
	}
	data, err := e.Marshal()
	if err != nil {
		return 0, err
	}
	return w.append(ctx, e.Artifact, data, func() (*Entry, error) { return w.RevokedBy(ctx, block) })
}
