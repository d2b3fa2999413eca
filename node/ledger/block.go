package ledger

import (
	"errors"

	"github.com/opencontainers/go-digest"
)

// ErrNotFound is returned when the ledger has no block that answers.
var ErrNotFound = errors.New("not on the ledger")

// Entry is a block of the ledger.
type Entry struct {
	Height int64
	Data   []byte // the entry's bytes
	// At most one of these is set: none when the block's type is unknown.
	Artifact    *AddArtifact
	Revocation  *RevokeArtifact  // of one block
	Withdrawal  *RevokeDigest    // of all blocks with a digest
	Restoration *RestoreArtifact // of what was withdrawn
	Rotation    *RotateKey
}

// ReadEntry reads the block at a height. With an error, which may be ErrUnknownEntry,
// the block has its bytes alone.
func ReadEntry(height int64, data []byte) (*Entry, error) {
	e := &Entry{Height: height, Data: data}
	return e, e.parse()
}

func (e *Entry) parse() error {
	artifact, err := ParseEntry(e.Data)
	if err == nil {
		e.Artifact = artifact
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	revocation, err := ParseRevocation(e.Data)
	if err == nil {
		e.Revocation = revocation
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	withdrawal, err := ParseWithdrawal(e.Data)
	if err == nil {
		e.Withdrawal = withdrawal
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	restoration, err := ParseRestoration(e.Data)
	if err == nil {
		e.Restoration = restoration
	}
	if !errors.Is(err, ErrUnknownEntry) {
		return err
	}
	rotation, err := ParseRotation(e.Data)
	if err == nil {
		e.Rotation = rotation
	}
	return err
}

// MaxArtifacts bounds the blocks on one page of /api/v1/artifacts.
const MaxArtifacts = 100

// BlockJSON is a block in the answers of /api/v1/.
type BlockJSON struct {
	Height int64 `json:"height"`
	// Hash is the RFC 6962 leaf hash in base64.
	Hash string `json:"hash"`
	// Entry is the entry itself, as a string: its bytes are what is hashed.
	Entry string `json:"entry"`
	// Proof is a c2sp.org/tlog-proof; only in answers about one block.
	Proof string `json:"proof,omitempty"`
	// RevokedBy is the height of the block that withdraws this one, if there is
	// one.
	RevokedBy *int64 `json:"revokedBy,omitempty"`
	// Withdrawn are the digests of the block that are withdrawn: the artifact's
	// (then RevokedBy is set), or of single platforms' manifests.
	Withdrawn []WithdrawnJSON `json:"withdrawn,omitempty"`
}

// WithdrawnJSON is a digest that the ledger withdraws.
type WithdrawnJSON struct {
	Digest digest.Digest `json:"digest"`
	By     int64         `json:"by"` // the block that does so
	Reason string        `json:"reason"`
}

// MaxLookup bounds the questions of one look-up.
const MaxLookup = 1024

// LookupJSON is the answer of GET /api/v1/lookup: what the ledger says of many images
// under one head.
type LookupJSON struct {
	// Checkpoint is the head, as the publisher signed it.
	Checkpoint string `json:"checkpoint"`
	// Answers are to the questions, in their order.
	Answers []AnswerJSON `json:"answers"`
}

// AnswerJSON is what the ledger says of one image.
type AnswerJSON struct {
	// Block names the digest that was asked for: if several do, one of the repository
	// that was asked for rather than of another, of these one by which it stands rather
	// than one that is withdrawn, of these one of the tag, and of these the newest.
	Block *BlockJSON `json:"block,omitempty"`
	// Inclusion proves Block under the head (RFC 6962, section 2.1.1, base64).
	Inclusion []string `json:"inclusion,omitempty"`
	// Tag is the newest block of the tag that was asked for, unless it is Block, and
	// TagInclusion proves it.
	Tag          *BlockJSON `json:"tag,omitempty"`
	TagInclusion []string   `json:"tagInclusion,omitempty"`
	// Repository tells whether any block is of the repository that was asked for.
	Repository bool `json:"repository,omitempty"`
}
