package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// evidences is the evidence that is kept, in memory too: each scrape, status and
// refusal asks for it, and a peer that causes refusals must not make this node
// read files.
type evidences struct {
	mu     sync.Mutex // guards what follows
	loaded bool
	all    []piece // the oldest first
}

// piece is evidence with the file that keeps it.
type piece struct {
	ledger.Evidence
	file string // its name
	size int    // in bytes
}

// identity is what makes two pieces of evidence the same. What the ledger's keys
// signed is the same from any peer, and however often it was signed again;
// misbehaviour of a peer is counted for each peer.
func (e *piece) identity() string {
	switch e.Kind {
	case ledger.EvidenceNewKey, ledger.EvidenceRetiredKey:
		return e.Key // the holder of the key can sign something else each minute, which is nothing new
	case ledger.EvidenceBadSignature, ledger.EvidenceBadData:
		return e.Peer + "\n" + e.Message + "\n" + e.Received
	default:
		text, _, _ := strings.Cut(e.Received, "\n\n")
		return text
	}
}

// load reads what is on the disk, once. The caller holds mu.
func (s *evidences) load(path string) (err error) {
	if !s.loaded {
		if s.all, err = readPieces(filepath.Join(path, evidenceFolder)); err != nil {
			return err
		}
		s.loaded = true
	}
	return nil
}

// keepEvidence counts a refusal and keeps what proves it. by are keys that signed
// what was received.
func (l *Ledger) keepEvidence(refused ledger.Evidence, by ...string) error {
	e := piece{Evidence: refused}
	l.refused.of(e.Kind).Add(1)
	e.Time = time.Now().UTC()
	if head, ok := l.Head(); ok && e.Verified == "" {
		e.Verified = string(head.Signed)
	}
	v := l.signersOf(refused, by)
	// Without the cosignatures, by which they may be too long to be kept whole.
	e.Verified, e.Received = signedPart(v, e.Verified), signedPart(v, refused.Received)
	e.Keys = signersAmong(v, e.Verified, e.Received)
	e.shorten()
	// The same thing again is the same file.
	sum := sha256.Sum256([]byte(e.identity()))
	e.file = fmt.Sprintf("%s-%x.json", e.Kind, sum[:8])
	data, err := e.encode()
	if err != nil {
		return err
	}
	e.size = len(data)

	s := &l.evidence
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(l.dir.path); err != nil {
		return err
	}
	if slices.ContainsFunc(s.all, func(o piece) bool { return o.file == e.file }) {
		return nil
	}
	folder := filepath.Join(l.dir.path, evidenceFolder)
	if full, err := s.makeRoom(folder, e); err != nil || full {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	// Crash before: the evidence is absent; a peer that goes on makes it again.
	if err := durable.WriteFile(filepath.Join(folder, e.file), data); err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	s.all = append(s.all, e)
	return nil
}

// signersOf are the keys that are, or were, the ledger's, or that the evidence is about.
func (l *Ledger) signersOf(e ledger.Evidence, by []string) *ledger.Verifier {
	trust := l.now().trust
	v := trust.newest
	for _, vkey := range slices.Concat(trust.given, by, []string{e.Key}) {
		if k, err := ledger.NewVerifier(vkey); err == nil && !v.Trusts(vkey) {
			v = v.And(k)
		}
	}
	return v
}

// signedPart is a checkpoint with the signatures alone of some keys; all of it if none of them signed it.
func signedPart(v *ledger.Verifier, signed string) string {
	if own := v.Own([]byte(signed)); own != nil {
		return string(own)
	}
	return signed
}

// signersAmong are those of the keys that signed one of the checkpoints: with them the evidence can be judged
// by anyone who has nothing else.
func signersAmong(v *ledger.Verifier, checkpoints ...string) (vkeys []string) {
	for _, signed := range checkpoints {
		if c, err := ledger.VerifyCheckpoint(v, []byte(signed)); err == nil {
			vkeys = append(vkeys, c.Signers...)
		}
	}
	slices.Sort(vkeys)
	return slices.Compact(vkeys)
}

// shorten cuts the fields that only a refused sender can have made long.
func (e *piece) shorten() {
	e.Peer = e.Peer[:min(len(e.Peer), maxMessage)]
	e.Message = e.Message[:min(len(e.Message), maxMessage)]
	e.Received = e.Received[:min(len(e.Received), maxReceived)]
	e.Verified = e.Verified[:min(len(e.Verified), maxReceived)]
	e.Rotations = e.Rotations[:min(len(e.Rotations), 2)]
}

// encode makes the file's content. What is too long for it, by bytes that JSON
// writes as six, is left out.
func (e *piece) encode() ([]byte, error) {
	for {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(e.Evidence); err != nil {
			return nil, fmt.Errorf("keeping the evidence: %w", err)
		}
		switch {
		case out.Len() <= maxPiece:
			return out.Bytes(), nil
		case e.Received != "":
			e.Received = ""
		case e.Verified != "":
			e.Verified = ""
		case e.Rotations != nil:
			e.Rotations = nil
		case e.Keys != nil || e.Proof != nil:
			e.Keys, e.Root, e.Proof = nil, "", nil
		default:
			e.Message, e.Peer, e.Key = "it is too long to be kept", "", ""
		}
	}
}

// makeRoom removes the oldest acknowledged pieces of a kind when there are as many
// as are kept; full tells that too few are acknowledged. The caller holds mu.
func (s *evidences) makeRoom(folder string, e piece) (full bool, err error) {
	until, err := acknowledgedUntil(folder)
	if err != nil {
		return false, err
	}
	for {
		pieces, size, oldest := 0, e.size, -1
		for i, o := range s.all {
			if o.Kind != e.Kind {
				continue
			}
			if pieces, size = pieces+1, size+o.size; oldest < 0 && !o.Time.After(until) {
				oldest = i
			}
		}
		if pieces < maxEvidence && size <= maxKindBytes {
			return false, nil
		}
		if oldest < 0 {
			return true, nil
		}
		// Crash after: it was acknowledged.
		if err := os.Remove(filepath.Join(folder, s.all[oldest].file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("keeping the evidence: %w", err)
		}
		s.all = slices.Delete(s.all, oldest, oldest+1)
	}
}

// Evidence is what is kept, the oldest first.
func (l *Ledger) Evidence() ([]ledger.Evidence, error) {
	l.evidence.mu.Lock()
	defer l.evidence.mu.Unlock()
	if err := l.evidence.load(l.dir.path); err != nil {
		return nil, err
	}
	return acknowledged(l.dir.path, l.evidence.all)
}

// ReadEvidence reads what the ledger at path keeps, the oldest first.
func ReadEvidence(path string) ([]ledger.Evidence, error) {
	all, err := readPieces(filepath.Join(path, evidenceFolder))
	if err != nil {
		return nil, err
	}
	return acknowledged(path, all)
}

// acknowledged marks what somebody has looked at: another process may say so.
func acknowledged(path string, all []piece) (out []ledger.Evidence, err error) {
	until, err := acknowledgedUntil(filepath.Join(path, evidenceFolder))
	for _, e := range all {
		e.Acknowledged = !e.Time.After(until)
		out = append(out, e.Evidence)
	}
	return out, err
}

// maxOldPiece bounds what is read of a file that an earlier version wrote, with all
// that a peer had added to a checkpoint.
const maxOldPiece = 2 << 20

func readPieces(folder string) (out []piece, err error) {
	files, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the evidence: %w", err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		e, err := readPiece(filepath.Join(folder, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the evidence %s: %w", f.Name(), err)
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b piece) int { return a.Time.Compare(b.Time) })
	return out, nil
}

func readPiece(name string) (e piece, err error) {
	f, err := os.Open(name)
	if err != nil {
		return e, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxOldPiece))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(data, &e.Evidence); err != nil {
		return e, err
	}
	e.file, e.size = filepath.Base(name), len(data)
	if len(data) > maxPiece {
		e.shorten()
		if data, err = e.encode(); err != nil {
			return e, err
		}
		e.size = len(data)
	}
	return e, nil
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

// forkedError is ErrForked, with what proves it to others.
type forkedError struct {
	message string
	head    ledger.Checkpoint
	proof   ledger.Evidence // its Root and Proof alone
}

func (e *forkedError) Error() string { return e.message }

func (e *forkedError) Unwrap() error { return ErrForked }

// newForkedError says that two ledgers contradict each other at so many blocks, and proves it by the hashes of
// the larger one. Without the proof, which a source may refuse to complete, a fork is one all the same.
func newForkedError(head, c ledger.Checkpoint, size int64, verified, received tlog.Hash, larger tlog.Tree, hashes tlog.HashReader) error {
	e := &forkedError{head: head}
	e.message = fmt.Sprintf("%v: at %d blocks, root %s was verified and the new checkpoint of %d blocks has root %s", ErrForked, size, verified, c.Tree.N, received)
	if size > 0 && head.Tree.N != c.Tree.N {
		if err := e.proof.ProveFork(size, larger, hashes); err != nil {
			e.message += fmt.Sprintf(" (%v)", err)
		}
	}
	return e
}
