package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// EvidenceKind says what a peer, or the publisher, has done.
type EvidenceKind string

// The kinds of evidence. A Fork proves that the publisher misbehaved, because it
// signed both checkpoints. A Rollback is a publisher on an older disk, or with a
// clock that was wrong. RetiredKey and TwoSuccessors mean that somebody else may
// have the ledger's keys, and NewKey is not a refusal but has to be
// acknowledged. The others are about a peer only.
const (
	EvidenceFork          EvidenceKind = "Fork"          // two checkpoints that contradict each other
	EvidenceRetiredKey    EvidenceKind = "RetiredKey"    // a key that has handed the ledger over signs on
	EvidenceTwoSuccessors EvidenceKind = "TwoSuccessors" // a key hands the ledger over to two keys
	EvidenceRollback      EvidenceKind = "Rollback"      // a smaller ledger was signed after a larger one
	EvidenceNewKey        EvidenceKind = "NewKey"        // the ledger was handed over to another key, and followed
	EvidenceBadSignature  EvidenceKind = "BadSignature"  // a checkpoint that no trusted key signed, or of another ledger
	EvidenceBadData       EvidenceKind = "BadData"       // blocks or tiles that are not what the checkpoint commits to
)

// EvidenceKinds are all kinds, the gravest first.
var EvidenceKinds = []EvidenceKind{
	EvidenceFork, EvidenceRetiredKey, EvidenceTwoSuccessors, EvidenceRollback, EvidenceNewKey, EvidenceBadSignature, EvidenceBadData,
}

const (
	// maxEvidence bounds the pieces of each kind that are kept, the oldest ones:
	// one fork is proof enough, and no peer can push it out. Those that somebody has
	// acknowledged make room.
	maxEvidence = 64
	// maxKindBytes bounds the pieces of each kind together, and maxPiece each one:
	// with all kinds, less than a megabyte. What proves something fits.
	maxKindBytes = 128 << 10
	maxPiece     = 24 << 10
	// maxReceived bounds what is kept of one checkpoint, of which none that proves
	// something has more. One that no trusted key signed proves nothing, and any
	// peer can send as many as it likes.
	maxReceived = 8 << 10
	maxMessage  = 1 << 10
)

const (
	evidenceFolder = "evidence"
	// acknowledgedFile holds until when evidence was acknowledged: RFC 3339.
	acknowledgedFile = "acknowledged"
)

// Evidence is what was refused, and why.
type Evidence struct {
	Kind EvidenceKind `json:"kind"`
	// Time is when it was seen first.
	Time time.Time `json:"time"`
	// Peer is the sender.
	Peer    string `json:"peer"`
	Message string `json:"message"`
	// Verified is the signed checkpoint that was verified before; empty if
	// there was none.
	Verified string `json:"verified,omitempty"`
	// Received is the checkpoint that was refused, or under which the data was.
	Received string `json:"received,omitempty"`
	// Key is the key that it is about: the one to which the ledger was handed over,
	// or the retired one.
	Key string `json:"key,omitempty"`
	// Rotations are the hand-overs that it is about.
	Rotations []Rotation `json:"rotations,omitempty"`
	// Acknowledged says that a person has looked at it, which ends its alarm. It
	// is not in the file.
	Acknowledged bool `json:"acknowledged,omitempty"`

	file string   // its name
	size int      // in bytes
	by   []string // keys that signed what was received
}

// identity is what makes two pieces of evidence the same. What the ledger's keys
// signed is the same from any peer, and however often it was signed again;
// misbehaviour of a peer is counted for each peer.
func (e *Evidence) identity() string {
	switch e.Kind {
	case EvidenceNewKey, EvidenceRetiredKey:
		return e.Key // the holder of the key can sign something else each minute, which is nothing new
	case EvidenceBadSignature, EvidenceBadData:
		return e.Peer + "\n" + e.Message + "\n" + e.Received
	default:
		text, _, _ := strings.Cut(e.Received, "\n\n")
		return text
	}
}

// refusals counts by kind, since the start.
type refusals [7]atomic.Int64

func (r *refusals) of(k EvidenceKind) *atomic.Int64 { return &r[slices.Index(EvidenceKinds, k)] }

// Refused is how often something was refused since the start, by kind.
func (l *Ledger) Refused(k EvidenceKind) int64 { return l.refused.of(k).Load() }

// Acknowledge has all evidence that the ledger at path has kept until a moment be
// no alarm any more. It stays, and what comes later is an alarm again. The node
// may run meanwhile.
func Acknowledge(path string, until time.Time) error {
	folder := filepath.Join(path, evidenceFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("acknowledging the evidence: %w", err)
	}
	// Crash before: nothing is acknowledged.
	if err := durable.WriteFile(filepath.Join(folder, acknowledgedFile), []byte(until.UTC().Format(time.RFC3339Nano)+"\n")); err != nil {
		return fmt.Errorf("acknowledging the evidence: %w", err)
	}
	return nil
}

// acknowledgedUntil is until when the evidence in a folder was acknowledged.
func acknowledgedUntil(folder string) (until time.Time, err error) {
	data, err := os.ReadFile(filepath.Join(folder, acknowledgedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return until, nil
	}
	if err == nil {
		until, err = time.Parse(time.RFC3339Nano, strings.TrimSpace(string(data)))
	}
	if err != nil {
		return until, fmt.Errorf("reading what was acknowledged: %w; remove the file to have all alarms again", err)
	}
	return until, nil
}
