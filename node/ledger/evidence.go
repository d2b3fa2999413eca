package ledger

import (
	"crypto/sha256"
	"encoding/json"
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

// The kinds of evidence. A Fork proves that the publisher misbehaved, for it
// signed both checkpoints. A Rollback is a publisher on an older disk, or with a
// clock that was wrong. RetiredKey and TwoSuccessors are about who has the
// ledger's keys, and NewKey is no refusal: somebody must know of it. The others
// are about a peer alone.
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

// maxEvidence bounds the pieces of each kind that are kept, the oldest ones:
// one fork is proof enough, and no peer can push it out. Those that somebody has
// acknowledged make room.
const maxEvidence = 64

// maxReceived bounds what is kept of a checkpoint that no trusted key signed:
// it proves nothing, and any peer can send as many as it likes.
const maxReceived = 16 << 10

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
	// Peer is who sent it.
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
	// Acknowledged tells that somebody has looked at it: it is no alarm any more.
	// It is not in the file.
	Acknowledged bool `json:"acknowledged,omitempty"`

	file string // its name
}

// identity is what makes two pieces of evidence the same. What the ledger's keys
// signed is the same whoever brings it, and however often it was signed again; a
// peer's own doing is not.
func (e *Evidence) identity() string {
	switch e.Kind {
	case EvidenceNewKey, EvidenceRetiredKey:
		return e.Key // whoever has it can sign something else each minute: that is no news
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

// keepEvidence counts a refusal and keeps what proves it.
func (l *Ledger) keepEvidence(e Evidence) error {
	l.refused.of(e.Kind).Add(1)
	e.Time = time.Now().UTC()
	if e.Kind == EvidenceBadSignature {
		e.Received = e.Received[:min(len(e.Received), maxReceived)]
	}
	if head, ok := l.Head(); ok {
		e.Verified = string(head.Signed)
	}
	folder := filepath.Join(l.dir.path, evidenceFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	// The same thing again is the same file.
	sum := sha256.Sum256([]byte(e.identity()))
	name := filepath.Join(folder, fmt.Sprintf("%s-%x.json", e.Kind, sum[:8]))
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if full, err := l.makeRoom(e.Kind); err != nil || full {
		return err
	}
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	// Crash before: the evidence is absent; a peer that goes on makes it again.
	return durable.WriteFile(name, data)
}

// makeRoom removes the oldest acknowledged piece of a kind when there are as many
// as are kept; full tells that none is acknowledged.
func (l *Ledger) makeRoom(kind EvidenceKind) (full bool, err error) {
	all, err := l.Evidence()
	if err != nil {
		return false, err
	}
	of := slices.DeleteFunc(all, func(e Evidence) bool { return e.Kind != kind })
	if len(of) < maxEvidence {
		return false, nil
	}
	i := slices.IndexFunc(of, func(e Evidence) bool { return e.Acknowledged })
	if i < 0 {
		return true, nil
	}
	return false, os.Remove(filepath.Join(l.dir.path, evidenceFolder, of[i].file))
}

// Evidence reads what is kept, the oldest first.
func (l *Ledger) Evidence() ([]Evidence, error) { return ReadEvidence(l.dir.path) }

// ReadEvidence reads what the ledger at path keeps, the oldest first.
func ReadEvidence(path string) ([]Evidence, error) {
	folder := filepath.Join(path, evidenceFolder)
	files, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the evidence: %w", err)
	}
	until, err := acknowledgedUntil(folder)
	if err != nil {
		return nil, err
	}
	var out []Evidence
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the evidence: %w", err)
		}
		var e Evidence
		if err := json.Unmarshal(data, &e); err != nil {
			return nil, fmt.Errorf("reading the evidence %s: %w", f.Name(), err)
		}
		e.Acknowledged, e.file = !e.Time.After(until), f.Name()
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b Evidence) int { return a.Time.Compare(b.Time) })
	return out, nil
}

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
