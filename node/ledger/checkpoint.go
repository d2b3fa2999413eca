package ledger

import (
	"fmt"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Checkpoint is a verified checkpoint of the ledger (c2sp.org/tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Tree   tlog.Tree // size in blocks, and root hash
	Signed []byte    // the signed note it was read from
	// Time is when it was signed by the publisher's clock, to the second; zero
	// if it does not say.
	Time time.Time
	// Signers are those of the trusted keys that signed it.
	Signers []string
}

// MaxCheckpoint bounds a signed checkpoint in bytes.
const MaxCheckpoint = cosign.MaxNote

// maxCheckpointText bounds what is signed: origin, size, root and extensions, of
// which this program knows none.
const maxCheckpointText = 4 << 10

// ClockSlack is by how much the publisher's clock may be off: set back before
// that is taken for a ledger that was rolled back, or ahead of this node's before
// what it says is not believed.
const ClockSlack = 2 * time.Minute

// VerifyCheckpoint reads a signed checkpoint of the ledger whose keys v trusts.
func VerifyCheckpoint(v *Verifier, signed []byte) (Checkpoint, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("checkpoint of %d bytes: at most %d", len(signed), MaxCheckpoint)
	}
	c, n, err := torchwood.VerifyCheckpoint(signed, v)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if len(n.Text) > maxCheckpointText {
		return Checkpoint{}, fmt.Errorf("checkpoint with a text of %d bytes: at most %d", len(n.Text), maxCheckpointText)
	}
	return Checkpoint{Origin: c.Origin, Tree: c.Tree, Signed: signed, Time: v.signed(n.Sigs), Signers: v.signers(n.Sigs)}, nil
}

// Said is when the publisher signed the checkpoint, by its clock; zero if it does
// not say, or says a time that has not come yet by this node's clock. A clock that
// was wrong once must not make all later checkpoints look old.
func (c Checkpoint) Said(now time.Time) time.Time {
	if c.Time.After(now.Add(ClockSlack)) {
		return time.Time{}
	}
	return c.Time
}
