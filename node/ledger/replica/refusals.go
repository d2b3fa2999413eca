package replica

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
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

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

// refusals counts by kind, since the start.
type refusals [7]atomic.Int64

func (r *refusals) of(k ledger.EvidenceKind) *atomic.Int64 {
	return &r[slices.Index(ledger.EvidenceKinds, k)]
}

// Refused is how often something was refused since the start, by kind.
func (l *Ledger) Refused(k ledger.EvidenceKind) int64 { return l.refused.of(k).Load() }

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
