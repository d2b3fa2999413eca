package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	// TypeRotateKey hands the ledger over to another key.
	TypeRotateKey = "RotateKey"
	// rotationsFile holds the proofs that the ledger was handed over.
	rotationsFile    = "rotations.json"
	maxRotationsJSON = maxRotations * (MaxEntrySize + maxProof)
)

// RotateKey is the entry that names a key to which the ledger is handed over.
// It is under a checkpoint that the key before signed too, and whoever trusts
// that one trusts the new one from then on. It is encoded like AddArtifact.
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
		err = json.Unmarshal(data, &rotations)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", rotationsFile, err)
	}
	return rotations, nil
}

// trust trusts the keys of those rotations that a trusted key signed, and keeps
// the proofs. It is an error if there is none.
func (l *Ledger) trust(rotations []Rotation) error {
	l.trusting.Lock()
	defer l.trusting.Unlock()
	v, kept := l.verifier.Load(), l.Rotations()
	var refused error
	for _, r := range rotations {
		next, err := v.With(r)
		refused = errors.Join(refused, err) // perhaps of a time before the pinned key
		if err == nil && next != v {
			v, kept = next, append(kept[:len(kept):len(kept)], r)
		}
	}
	if v == l.verifier.Load() {
		return refused
	}
	data, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("keeping a key rotation: %w", err)
	}
	// Crash before: the rotation is learned again, from the block that is on
	// this disk or from the peer that told it.
	if err := durable.WriteFile(filepath.Join(l.dir.path, rotationsFile), data); err != nil {
		return fmt.Errorf("keeping a key rotation: %w", err)
	}
	l.rotations.Store(&kept)
	l.verifier.Store(v)
	l.log.Info("the ledger is handed over to another key", "origin", v.Origin(), "key", v.keys[len(v.keys)-1].vkey)
	return nil
}

// learn trusts the keys that the blocks name to which the ledger was handed over.
func (l *Ledger) learn(ctx context.Context) error {
	found, err := l.find(ctx, rotationKey, l.Size(), maxRotations, func(e *Entry) bool { return e.Rotation != nil })
	if err != nil {
		return err
	}
	for i := len(found) - 1; i >= 0; i-- { // the oldest first
		e := found[i]
		if v := l.verifier.Load(); v.Trusts(e.Rotation.Key) || !v.Trusts(e.Rotation.Previous) {
			continue // followed already, or long before the key that was pinned
		}
		head, _ := l.Head()
		proof, err := l.Prove(ctx, e.Height, head)
		if err != nil {
			return err
		}
		r := Rotation{Entry: string(e.Data), Proof: string(torchwood.FormatProof(e.Height, proof, head.Signed))}
		if err := l.trust([]Rotation{r}); err != nil {
			l.log.Warn("a key rotation is not followed", "block", e.Height, "error", err)
		}
	}
	return nil
}

// Rotations prove, each to whoever trusts the keys before, that the ledger was
// handed over; the oldest first.
func (l *Ledger) Rotations() []Rotation {
	if p := l.rotations.Load(); p != nil {
		return *p
	}
	return nil
}

// rotate records the keys beside the first one with which this writer signs.
func (w *Writer) rotate(ctx context.Context, keys []signingKey, now time.Time) error {
	for _, k := range keys[1:] {
		e := &RotateKey{Type: TypeRotateKey, Version: 1, Previous: keys[0].vkey, Key: k.vkey, Time: now.UTC().Truncate(time.Second)}
		data, err := e.Marshal()
		if err != nil {
			return err
		}
		_, err = w.append(ctx, "the rotation to key "+k.vkey, data, func() (*Entry, error) {
			found, err := w.find(ctx, rotationKey, w.Size(), 1, func(e *Entry) bool { return e.Rotation != nil && e.Rotation.Key == k.vkey })
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
