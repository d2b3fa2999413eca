package tlogmirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	recordFile     = "record"
	checkpointFile = "checkpoint"
	logFolder      = "log"
	// maxRecent is how many former pending checkpoints an upload may still be for.
	maxRecent = 8
)

// Member is what a cosigner has of one log. All methods are safe for concurrent use.
type Member struct {
	cosigner *Cosigner
	log      Log
	path     string
	entries  *replica.Tree // nil: a witness

	served atomic.Pointer[served]

	mu     sync.Mutex // serialises changes, and guards what follows
	state  quorum.State
	recent []quorum.Signed // pending until lately, the newest last
	closed bool
}

// served is the newest checkpoint that the keys have cosigned.
type served struct {
	size  int64
	note  []byte // as the log signed it
	lines string // of the keys
	at    int64  // the second in which this process made them; 0: an earlier one did
}

func (s *served) signed() []byte { return slices.Concat(s.note, []byte(s.lines)) }

func (s *served) text() string {
	if s == nil {
		return ""
	}
	return s.lines
}

// open reads what is there of a log, or begins it.
func (c *Cosigner) open(ctx context.Context, path string, l Log) (*Member, error) {
	m := &Member{cosigner: c, log: l, path: path}
	if err := m.openRecord(); err != nil {
		return nil, err
	}
	// No signature is made before this has succeeded.
	if err := c.keys.begin(c.path, l.Origin); err != nil {
		return nil, err
	}
	if c.options.Role == quorum.Mirror {
		var err error
		if m.entries, err = replica.OpenTree(ctx, filepath.Join(path, logFolder)); err != nil {
			return nil, err
		}
		if err := m.checkEntries(ctx); err != nil {
			return nil, err
		}
	}
	return m, m.openServed()
}

func (m *Member) openRecord() error {
	c := m.cosigner
	data, err := os.ReadFile(filepath.Join(m.path, recordFile))
	switch {
	case err == nil:
		if m.state, err = quorum.Decode(data); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("reading the record of the cosigner: %w", err)
	}
	found := err == nil
	if !found && !slices.Contains(c.keys.Origins, m.log.Origin) && m.log.Floor == 0 {
		m.state, found = quorum.New(m.log.Origin, c.keys.id(), c.options.Role), true
		if err := os.MkdirAll(m.path, 0o700); err != nil {
			return fmt.Errorf("beginning a log: %w", err)
		}
		if err := durable.SyncDir(c.path); err != nil {
			return fmt.Errorf("beginning a log: %w", err)
		}
		if err := m.write(m.state); err != nil {
			return err
		}
	}
	if m.state, err = quorum.Open(m.state, found, m.log.Origin, c.keys.id(), m.log.Floor); err != nil {
		return err
	}
	if m.state.Role != c.options.Role {
		return fmt.Errorf("the record in %s is of a %s, and this cosigner is a %s: give it another folder", m.path, m.state.Role, c.options.Role)
	}
	return nil
}

// checkEntries refuses a disk that has not all that the keys have said they hold.
func (m *Member) checkEntries(ctx context.Context) error {
	log := m.state.Log.Tree
	if log.Size == 0 {
		return nil
	}
	root, err := m.entries.Root(ctx, log.Size)
	if err == nil && root != log.Root {
		err = fmt.Errorf("they lead to the root %s, not to %s", root, log.Root)
	}
	if err != nil {
		return fmt.Errorf("the entries in %s are not those of %v that was cosigned: move the cosigner's folder away, a new member with new keys takes its place: %w", m.path, log, err)
	}
	return nil
}

// errClosed is in the errors of a member whose folder may be another process's by now.
var errClosed = errors.New("the cosigner is closed")

// close ends changes of the member.
func (m *Member) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.entries != nil {
		m.entries.Close()
	}
}

// write makes a record durable.
func (m *Member) write(s quorum.State) error {
	data, err := s.Encode()
	if err != nil {
		return fmt.Errorf("storing the record of the cosigner: %w", err)
	}
	// Crash before: the old record, and nobody has heard of the new one. After: the new
	// one, which keeps promises that nobody may have heard of.
	if err := durable.WriteFile(filepath.Join(m.path, recordFile), data); err != nil {
		return fmt.Errorf("storing the record of the cosigner: %w", err)
	}
	return nil
}

// State is the record.
func (m *Member) State() quorum.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Change replaces the record by what a transition makes of it. When it returns without
// error, the new record is durable, what it allows is cosigned, and the transition's
// reply may be sent. Otherwise the reply must be dropped.
func (m *Member) Change(transition func(quorum.State) (quorum.State, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.change(transition)
}

// change is Change; the caller holds mu.
func (m *Member) change(transition func(quorum.State) (quorum.State, error)) error {
	if m.closed {
		return errClosed
	}
	next, err := transition(m.state)
	if err != nil || next.Serial == m.state.Serial {
		return err
	}
	if err := m.write(next); err != nil {
		return err
	}
	if next.Pending.Tree != m.state.Pending.Tree && m.state.Pending.Note != nil {
		m.recent = append(m.recent, m.state.Pending)
		m.recent = m.recent[max(0, len(m.recent)-maxRecent):]
	}
	m.state = next
	_, err = m.lines()
	return err
}

// lines are the cosignatures of what the record says may be signed, made if that has
// not been done; the caller holds mu.
func (m *Member) lines() (string, error) {
	signed := m.state.Cosigned()
	if s := m.served.Load(); signed.Note == nil || s != nil && bytes.Equal(s.note, signed.Note) {
		return s.text(), nil
	}
	err := m.cosign()
	return m.served.Load().text(), err
}

// cosign signs what the record says may be signed, now; the caller holds mu, and the
// record is durable.
func (m *Member) cosign() error {
	if m.closed {
		return errClosed
	}
	signed, at := m.state.Cosigned(), m.cosigner.options.Now()
	text, _, _ := bytes.Cut(signed.Note, []byte("\n\n"))
	var lines strings.Builder
	for _, s := range m.cosigner.keys.signers {
		line, err := s.Cosign(string(text)+"\n", at)
		if err != nil {
			return err
		}
		lines.WriteString(line)
	}
	now := &served{signed.Tree.Size, signed.Note, lines.String(), at.Unix()}
	// Crash before: the one before it is served until the next start makes this one
	// again from the record. So its loss in a power cut is repaired, too.
	if err := durable.Replace(filepath.Join(m.path, checkpointFile), now.signed()); err != nil {
		return fmt.Errorf("storing a cosigned checkpoint: %w", err)
	}
	m.served.Store(now)
	return nil
}

// renew cosigns the same checkpoint again, once a second: cosignatures have no finer
// time; the caller holds mu.
func (m *Member) renew() error {
	if s := m.served.Load(); s != nil && s.at == m.cosigner.options.Now().Unix() {
		return nil
	}
	return m.cosign()
}

// openServed reads the newest cosigned checkpoint, or makes it again.
func (m *Member) openServed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	signed := m.state.Cosigned()
	if signed.Note == nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(m.path, checkpointFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the cosigned checkpoint: %w", err)
	}
	lines, ok := bytes.CutPrefix(data, signed.Note)
	if n, err := cosign.Open(data, m.cosigner.keys.verifiers()); !ok || err != nil || len(n.Lines) < len(m.cosigner.keys.signers) {
		return m.cosign()
	}
	m.served.Store(&served{size: signed.Tree.Size, note: signed.Note, lines: string(lines)})
	return nil
}
