package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	// TypeRotateKey hands the ledger over to another key.
	TypeRotateKey = "RotateKey"
	// rotationsFile holds the proofs that the ledger was handed over.
	rotationsFile = "rotations.json"
	// maxRotationsJSON bounds what a peer tells. With the longest origin, 63 hashes
	// and the signatures of two keys, a rotation has 8 kB.
	maxRotationsJSON = maxRotations * (16 << 10)
	// rotationValues are the values in a rotation's JSON: itself and two strings.
	rotationValues = 3
)

// RotateKey is the entry that names a key to which the ledger is handed over.
// It is under a checkpoint that the previous key signed too, so a reader that
// trusts that one trusts the new one from then on. It is encoded like
// AddArtifact.
type RotateKey struct {
	Type    string `json:"type"`    // TypeRotateKey
	Version int    `json:"version"` // 1
	// Previous is the verifier key that hands over (c2sp.org/signed-note).
	Previous string `json:"previous"`
	// Key is the new verifier key, of the same origin.
	Key string `json:"key"`
	// Time is when the publisher recorded it: RFC 3339, UTC, whole seconds.
	Time time.Time `json:"time"`
}

// Rotation proves that the ledger was handed over to another key.
type Rotation struct {
	// Entry is the RotateKey entry.
	Entry string `json:"entry"`
	// Proof is its c2sp.org/tlog-proof, under a checkpoint that the key before
	// signed.
	Proof string `json:"proof"`
}

// Marshal encodes the entry.
func (e *RotateKey) Marshal() ([]byte, error) { return marshal(e) }

// ParseRotation decodes and checks a RotateKey entry.
func ParseRotation(data []byte) (*RotateKey, error) {
	e := new(RotateKey)
	return e, parse(data, TypeRotateKey, 1, e)
}

func (e *RotateKey) validate() error {
	if e.Type != TypeRotateKey || e.Version != 1 {
		return fmt.Errorf("type %q version %d", e.Type, e.Version)
	}
	previous, err := readPublicKey(e.Previous)
	if err != nil {
		return fmt.Errorf("previous: %w", err)
	}
	next, err := readPublicKey(e.Key)
	if err != nil {
		return err
	}
	if previous.vkey != e.Previous || next.vkey != e.Key {
		return errors.New("key: want no white space around it")
	}
	if previous.Name() != next.Name() {
		return fmt.Errorf("key: of the ledger %s, and previous is of %s", next.Name(), previous.Name())
	}
	return checkTime(e.Time)
}

// readRotations reads the proofs that are kept on this disk.
func (d dir) readRotations() (rotations []Rotation, err error) {
	data, err := d.ReadEndpoint(context.Background(), rotationsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		rotations, err = decodeRotations(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", rotationsFile, err)
	}
	return rotations, nil
}

// keepRotations keeps the proofs of the blocks in a tree on this disk. It is
// advance's commit for a checkpoint that is on the disk already.
func (l *Ledger) keepRotations(next *trust) error {
	if err := l.keepKeys(next.newest.vkey, next.newRotations()); err != nil {
		return err
	}
	if slices.Equal(next.rotations, l.now().trust.rotations) {
		return nil
	}
	data, err := json.Marshal(next.rotations)
	if err != nil {
		return fmt.Errorf("keeping a key rotation: %w", err)
	}
	// Crash before: the ledger at the head that is stored needs none of the new
	// ones. Crash after, before the new head is stored: a proof of a block that is
	// not under the head says nothing, and is taken again with that block.
	if err := durable.WriteFile(filepath.Join(l.dir.path, rotationsFile), data); err != nil {
		return fmt.Errorf("%w: keeping a key rotation: %w", errStorage, err)
	}
	return nil
}

// Rotations prove, each to a reader that trusts the previous key, that the
// ledger was handed over; the oldest first.
func (l *Ledger) Rotations() []Rotation { return l.now().trust.rotations }

// rotate records the keys beside the first one with which this writer signs:
// each hands over to the next.
func (w *Writer) rotate(ctx context.Context, keys []signingKey, now time.Time) error {
	for i, k := range keys[1:] {
		e := &RotateKey{Type: TypeRotateKey, Version: 1, Previous: keys[i].vkey, Key: k.vkey, Time: now.UTC().Truncate(time.Second)}
		data, err := e.Marshal()
		if err != nil {
			return err
		}
		_, err = w.append(ctx, "the rotation to key "+k.vkey, data, func() (*Entry, error) {
			found, err := w.find(ctx, rotationKey, w.Size(), 1, func(f *Entry) bool {
				return f.Rotation != nil && f.Rotation.Previous == e.Previous && f.Rotation.Key == e.Key
			})
			if err != nil || len(found) == 0 {
				return nil, err
			}
			return found[0], nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mustHold refuses to sign a ledger that was handed over to a key which this
// writer does not have: no mirror would follow.
func (w *Writer) mustHold(keys []signingKey) error {
	newest := w.now().trust.newest
	for _, k := range keys {
		if k.vkey == newest.vkey {
			return nil
		}
	}
	return fmt.Errorf("the ledger in %s was handed over to the key %s, and mirrors follow no other: give that signing key, alone or with the next one on a second line", w.dir.path, newest.vkey)
}
