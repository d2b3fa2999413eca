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

// The kinds of evidence. Fork and Rollback prove that the publisher misbehaved,
// for it signed both checkpoints; the others are about a peer alone.
const (
	EvidenceFork         EvidenceKind = "Fork"         // two checkpoints that contradict each other
	EvidenceRollback     EvidenceKind = "Rollback"     // a smaller ledger was signed after a larger one
	EvidenceBadSignature EvidenceKind = "BadSignature" // a checkpoint that no trusted key signed, or of another ledger
	EvidenceBadData      EvidenceKind = "BadData"      // blocks or tiles that are not what the checkpoint commits to
)

// EvidenceKinds are all kinds, the gravest first.
var EvidenceKinds = []EvidenceKind{EvidenceFork, EvidenceRollback, EvidenceBadSignature, EvidenceBadData}

// maxEvidence bounds the pieces of each kind that are kept, the oldest ones:
// one fork is proof enough, and no peer can push it out.
const maxEvidence = 64

// maxReceived bounds what is kept of a checkpoint that no trusted key signed:
// it proves nothing, and any peer can send as many as it likes.
const maxReceived = 16 << 10

const evidenceFolder = "evidence"

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
}

// refusals counts by kind, since the start.
type refusals struct{ fork, rollback, badSignature, badData atomic.Int64 }

func (r *refusals) of(k EvidenceKind) *atomic.Int64 {
	switch k {
	case EvidenceFork:
		return &r.fork
	case EvidenceRollback:
		return &r.rollback
	case EvidenceBadSignature:
		return &r.badSignature
	default:
		return &r.badData
	}
}

// Refused is how often something was refused since the start, by kind.
func (l *Ledger) Refused(k EvidenceKind) int64 { return l.refused.of(k).Load() }

// keepEvidence counts a refusal and keeps what proves it.
func (l *Ledger) keepEvidence(e Evidence) error {
	l.refused.of(e.Kind).Add(1)
	e.Time = time.Now().UTC().Truncate(time.Second)
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
	sum := sha256.Sum256([]byte(e.Peer + "\n" + e.Message + "\n" + e.Received))
	name := filepath.Join(folder, fmt.Sprintf("%s-%x.json", e.Kind, sum[:8]))
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	kept, err := filepath.Glob(filepath.Join(folder, string(e.Kind)+"-*.json"))
	if err != nil || len(kept) >= maxEvidence {
		return err
	}
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	// Crash before: the evidence is absent; a peer that goes on makes it again.
	return durable.WriteFile(name, data)
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
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b Evidence) int { return a.Time.Compare(b.Time) })
	return out, nil
}
