package ledger

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
)

const (
	// TypeRotateKey hands the ledger over to another key.
	TypeRotateKey = "RotateKey"
	// MaxRotationsJSON bounds what a peer tells. With the longest origin, 63 hashes
	// and the signatures of two keys, a rotation has 8 kB.
	MaxRotationsJSON = MaxRotations * (16 << 10)
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

// DecodeRotations reads a list of rotations that others have made. Those that the
// key which hands over has not signed are left out.
func DecodeRotations(data []byte) (out []Rotation, err error) {
	if err := bounded.Unmarshal(data, MaxRotations*rotationValues+2, &out); err != nil {
		return nil, err
	}
	if len(out) > MaxRotations {
		return nil, fmt.Errorf("%d, at most %d", len(out), MaxRotations)
	}
	own := out[:0]
	for _, r := range out {
		if r, err := ownRotation(r); err == nil {
			own = append(own, r)
		}
	}
	return own, nil
}

// ownRotation is a rotation in the form in which this program makes it: what
// anyone can add to its proof is left out. It is refused unless the key that hands
// over signed it; whether that one is the ledger's is not asked.
func ownRotation(r Rotation) (Rotation, error) {
	e, err := ParseRotation([]byte(r.Entry))
	if err != nil {
		return r, err
	}
	v, err := NewVerifier(e.Previous)
	if err != nil {
		return r, err
	}
	if _, err := VerifyInclusion(v, []byte(r.Entry), []byte(r.Proof)); err != nil {
		return r, err
	}
	head, signed, _ := strings.Cut(r.Proof, "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) > 1 && strings.HasPrefix(lines[1], "extra ") {
		lines = append(lines[:1:1], lines[2:]...)
	}
	r.Proof = strings.Join(lines, "\n") + "\n\n" + string(v.Own([]byte(signed)))
	return r, nil
}
