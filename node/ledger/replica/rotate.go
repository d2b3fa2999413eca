package replica

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
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// rotationsFile holds the proofs that the ledger was handed over.
const rotationsFile = "rotations.json"

// readRotations reads the proofs that are kept on this disk.
func (d dir) readRotations() (rotations []ledger.Rotation, err error) {
	data, err := d.ReadEndpoint(context.Background(), rotationsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		rotations, err = ledger.DecodeRotations(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", rotationsFile, err)
	}
	return rotations, nil
}

// keepRotations keeps the proofs of the blocks in a tree on this disk. It is
// advance's commit for a checkpoint that is on the disk already.
func (l *Ledger) keepRotations(next *trust) error {
	if err := l.keepKeys(next.key(), next.newRotations()); err != nil {
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
func (l *Ledger) Rotations() []ledger.Rotation { return l.now().trust.rotations }

// rotate records the keys beside the first one with which this writer signs:
// each hands over to the next.
func (w *Writer) rotate(ctx context.Context, keys []ledger.SigningKey, now time.Time) error {
	for i, k := range keys[1:] {
		e := &ledger.RotateKey{Type: ledger.TypeRotateKey, Version: 1, Previous: keys[i].Key, Key: k.Key, Time: now.UTC().Truncate(time.Second)}
		data, err := e.Marshal()
		if err != nil {
			return err
		}
		_, err = w.append(ctx, "the rotation to key "+k.Key, data, func() (*ledger.Entry, error) {
			found, err := w.find(ctx, index.RotationKey, w.Size(), 1, func(f *ledger.Entry) bool {
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

// requireKey refuses to sign a ledger that was handed over to a key which this
// writer does not have: no mirror would follow.
func (w *Writer) requireKey(keys []ledger.SigningKey) error {
	newest := w.now().trust.key()
	for _, k := range keys {
		if k.Key == newest {
			return nil
		}
	}
	return fmt.Errorf("the ledger in %s was handed over to the key %s, and mirrors follow no other: give that signing key, alone or with the next one on a second line", w.dir.path, newest)
}
