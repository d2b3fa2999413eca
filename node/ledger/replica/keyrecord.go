package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// keysFile holds the key record.
const keysFile = "keys.json"

// keyRecord is what a copy remembers of the ledger's keys beside the blocks, which
// may be lost or damaged when it matters. It can only exclude keys: what the verified
// blocks say applies as well. Version 0.1.0 wrote none.
type keyRecord struct {
	// Keys lead from the one that was pinned to the newest one, that signed the
	// stored checkpoint.
	Keys []string `json:"keys"`
	// HandOvers are those by these keys that were heard of, in the ledger or not.
	HandOvers []ledger.Rotation `json:"handOvers,omitempty"`
}

// leadsFrom tells whether the record is of the key that is pinned now.
func (r *keyRecord) leadsFrom(pinned string) bool {
	return r != nil && slices.Contains(r.Keys, pinned)
}

func (r *keyRecord) newest() string {
	if r == nil || len(r.Keys) == 0 {
		return ""
	}
	return r.Keys[len(r.Keys)-1]
}

// next is the record once a key is the newest, and of more hand-overs.
func (r *keyRecord) next(pinned, newest string, more []ledger.Rotation) *keyRecord {
	out := &keyRecord{Keys: []string{pinned}}
	if r.leadsFrom(pinned) {
		out.Keys = slices.Clone(r.Keys)
	}
	if i := slices.Index(out.Keys, newest); i >= 0 {
		out.Keys = out.Keys[:i+1]
	} else {
		out.Keys = append(out.Keys, newest)
	}
	if r != nil {
		more = slices.Concat(r.HandOvers, more)
	}
	s := newSuccessors()
	for _, rotation := range more {
		if e, err := ledger.ParseRotation([]byte(rotation.Entry)); err == nil && slices.Contains(out.Keys, e.Previous) && s.add(newest, rotation) {
			out.HandOvers = append(out.HandOvers, rotation)
		}
	}
	return out
}

// withHandOvers are proofs, and those that only the record has.
func (r *keyRecord) withHandOvers(rotations []ledger.Rotation) []ledger.Rotation {
	if r == nil {
		return rotations
	}
	for _, h := range r.HandOvers {
		if !slices.ContainsFunc(rotations, func(known ledger.Rotation) bool { return known.Entry == h.Entry }) {
			rotations = append(rotations, h)
		}
	}
	return rotations
}

func (r *keyRecord) equal(o *keyRecord) bool {
	return r != nil && slices.Equal(r.Keys, o.Keys) && slices.Equal(r.HandOvers, o.HandOvers)
}

// readKeys reads the record that is kept on this disk: nil if there is none, and one
// that says nothing if it cannot be read.
func (d dir) readKeys() (*keyRecord, error) {
	data, err := d.ReadEndpoint(context.Background(), keysFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r := new(keyRecord)
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		return new(keyRecord), fmt.Errorf("reading %s: %w", keysFile, err)
	}
	return r, nil
}

// keepKeys keeps which key is the newest, and hand-overs.
func (l *Ledger) keepKeys(newest string, more []ledger.Rotation) error {
	l.recording.Lock()
	defer l.recording.Unlock()
	next := l.record.next(l.vkey, newest, more)
	if l.record.equal(next) {
		return nil
	}
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("keeping the ledger's keys: %w", err)
	}
	// Crash before: the hand-over is heard again. Crash after, before the checkpoint
	// of the new key is stored: the key before signs no more blocks, as it was handed
	// over, and the next sync adopts the new one's ledger.
	if err := durable.WriteFile(filepath.Join(l.dir.path, keysFile), data); err != nil {
		return fmt.Errorf("%w: keeping the ledger's keys: %w", errStorage, err)
	}
	l.record = next
	return nil
}

// recorded says which key may sign while no checkpoint on this disk is verified: the
// newest key that this copy has followed to, although the blocks that say so are
// damaged. If the record is lost too, the proofs say it: they were kept as their tree
// was adopted.
func (l *Ledger) recorded(pinned *trust) (*trust, error) {
	if l.record.newest() == "" {
		v := pinned.newest.WithAll(pinned.rotations)
		keys := v.Keys()
		return &trust{newest: v.Alone(), given: keys[:len(keys)-1], rotations: pinned.rotations}, nil
	}
	if !l.record.leadsFrom(l.vkey) {
		return pinned, nil
	}
	newest, err := ledger.NewVerifier(l.record.newest())
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", keysFile, err)
	}
	return &trust{newest: newest, given: l.record.Keys[:len(l.record.Keys)-1], rotations: pinned.rotations}, nil
}

// mayHaveSigned accepts the keys that may have signed the checkpoint on this disk.
func (r *keyRecord) mayHaveSigned(pinned *ledger.Verifier, rotations []ledger.Rotation) *ledger.Verifier {
	v := reachable(pinned, rotations)
	if !r.leadsFrom(pinned.Newest()) {
		return v
	}
	for _, vkey := range r.Keys {
		if k, err := ledger.NewVerifier(vkey); err == nil && !v.Trusts(vkey) && k.Origin() == pinned.Origin() {
			v = v.And(k)
		}
	}
	return v
}

// lastKey is the one key that may sign what follows, by the record of a copy and by
// rotations that were told, whose blocks are not at hand.
func (r *keyRecord) lastKey(pinned string, told []ledger.Rotation) (*ledger.Verifier, error) {
	if r.leadsFrom(pinned) {
		pinned, told = r.newest(), slices.Concat(r.HandOvers, told)
	}
	v, err := ledger.NewVerifier(pinned)
	if err != nil {
		return nil, err
	}
	v = v.WithAll(told)
	if next := v.Successors(told); len(next) > 1 {
		return nil, fmt.Errorf("%w: %s and %s: give the one that is the publisher's", ErrTwoSuccessors, next[0].Newest(), next[1].Newest())
	}
	return v.Alone(), nil
}
