package ledger

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// MaxRotations bounds the keys that follow each other.
const MaxRotations = 64

// Verifier checks what the keys of one ledger signed: the key that somebody
// pinned, and those that follow on it, each named by the one before. It does not
// change; With makes another one.
type Verifier struct {
	keys []publicKey // the pinned one first
}

// publicKey is one key, with which two things are signed.
type publicKey struct {
	note.Verifier
	vkey  string
	clock *cosign.Key // the same key, for signatures with a time (c2sp.org/tlog-cosignature)
}

// NewVerifier reads a verifier key (c2sp.org/signed-note, "NAME+HASH+DATA").
func NewVerifier(vkey string) (*Verifier, error) {
	k, err := readPublicKey(vkey)
	if err != nil {
		return nil, err
	}
	return &Verifier{keys: []publicKey{k}}, nil
}

func readPublicKey(vkey string) (k publicKey, err error) {
	vkey = strings.TrimSpace(vkey)
	if k.Verifier, err = note.NewVerifier(vkey); err != nil {
		return k, fmt.Errorf("verifier key %.80q: %w; want NAME+HASH+DATA, as 'pyrsia keygen' prints it", vkey, err)
	}
	_, data, _ := strings.Cut(vkey[len(k.Name())+1:], "+")
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return k, fmt.Errorf("verifier key %.80q: not an ed25519 key", vkey)
	}
	k.vkey = vkey
	if k.clock, err = cosign.NewKey(k.Name(), cosign.Ed25519, raw[1:]); err != nil {
		return k, fmt.Errorf("verifier key %.80q: %w", vkey, err)
	}
	return k, nil
}

// Origin is the ledger's name (c2sp.org/tlog-checkpoint).
func (v *Verifier) Origin() string { return v.keys[0].Name() }

// Trusts tells whether a verifier key is one of the ledger's.
func (v *Verifier) Trusts(vkey string) bool {
	return slices.ContainsFunc(v.keys, func(k publicKey) bool { return k.vkey == strings.TrimSpace(vkey) })
}

// With trusts in addition the key that a rotation names. It is refused unless
// the newest key handed over and signed the proof: a retired key cannot name
// another successor.
//
// Whether the block is in the tree that the new key signs is not known here. A
// Follower checks it before it adopts that tree.
func (v *Verifier) With(r Rotation) (*Verifier, error) {
	e, err := ParseRotation([]byte(r.Entry))
	if err != nil {
		return nil, fmt.Errorf("key rotation: %w", err)
	}
	if e.Previous != v.newest().vkey {
		return nil, fmt.Errorf("key rotation: the key that hands over, %s, is not the newest one that is trusted", e.Previous)
	}
	if _, err := VerifyInclusion(v.Alone(), []byte(r.Entry), []byte(r.Proof)); err != nil {
		return nil, fmt.Errorf("key rotation: %w", err)
	}
	if v.Trusts(e.Key) {
		return nil, fmt.Errorf("key rotation: %s has handed the ledger over before", e.Key)
	}
	k, err := readPublicKey(e.Key)
	if err != nil {
		return nil, fmt.Errorf("key rotation: %w", err)
	}
	if len(v.keys) > MaxRotations {
		return nil, fmt.Errorf("key rotation: more than %d: pin the newest key", MaxRotations)
	}
	return &Verifier{keys: append(slices.Clone(v.keys), k)}, nil
}

// WithAll trusts in addition the keys of those rotations that follow on each
// other, whatever their order. Of two keys that one key names it trusts neither.
func (v *Verifier) WithAll(rotations []Rotation) *Verifier {
	for {
		next := v.Successors(rotations)
		if len(next) != 1 {
			return v
		}
		v = next[0]
	}
}

// Successors are the verifiers with one more key, one for each key that the
// newest one names.
func (v *Verifier) Successors(rotations []Rotation) (out []*Verifier) {
	for _, r := range rotations {
		next, err := v.With(r)
		if err == nil && !slices.ContainsFunc(out, func(o *Verifier) bool { return o.newest().vkey == next.newest().vkey }) {
			out = append(out, next)
		}
	}
	return out
}

// And trusts in addition the keys of another verifier of the same ledger.
func (v *Verifier) And(o *Verifier) *Verifier {
	return &Verifier{keys: slices.Concat(v.keys, o.keys)}
}

// Keys are the verifier keys, the pinned one first.
func (v *Verifier) Keys() (vkeys []string) {
	for _, k := range v.keys {
		vkeys = append(vkeys, k.vkey)
	}
	return vkeys
}

// Newest is the verifier key that none follows.
func (v *Verifier) Newest() string { return v.newest().vkey }

// newest is the key that none follows.
func (v *Verifier) newest() publicKey { return v.keys[len(v.keys)-1] }

// Alone is a verifier of the newest key alone.
func (v *Verifier) Alone() *Verifier { return &Verifier{keys: []publicKey{v.newest()}} }

// Verifier implements torchwood.Policy.
func (v *Verifier) Verifier(name string, hash uint32) (note.Verifier, error) {
	for _, k := range v.keys {
		switch {
		case name != k.Name():
		case hash == k.KeyHash():
			return k.Verifier, nil
		case hash == k.clock.KeyHash():
			return k.clock, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// Check implements torchwood.Policy: the origin is the ledger's, and one of its
// keys signed. A cosignature alone is none.
func (v *Verifier) Check(origin string, sigs []note.Signature) error {
	if origin != v.Origin() {
		return fmt.Errorf("it is of the ledger %.80q, not of %q", origin, v.Origin())
	}
	if len(v.signers(sigs)) == 0 {
		return errors.New("no trusted key signed it")
	}
	return nil
}

// isOfAnotherKey tells whether a note claims to be signed by the ledger, and by none
// of the keys. Whether it is, is not known.
func (v *Verifier) isOfAnotherKey(signed string) bool {
	_, err := note.Open([]byte(signed), note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok || len(v.signers(unverified.Note.UnverifiedSigs)) > 0 {
		return false
	}
	return slices.ContainsFunc(unverified.Note.UnverifiedSigs, func(s note.Signature) bool { return s.Name == v.Origin() })
}

func (v *Verifier) signers(sigs []note.Signature) (vkeys []string) {
	for _, k := range v.keys {
		if slices.ContainsFunc(sigs, func(s note.Signature) bool { return s.Hash == k.KeyHash() }) {
			vkeys = append(vkeys, k.vkey)
		}
	}
	return vkeys
}

// signed is when the newest cosignature says that the ledger's keys signed;
// zero if none says it.
func (v *Verifier) signed(sigs []note.Signature) (newest time.Time) {
	for _, s := range sigs {
		if !slices.ContainsFunc(v.keys, func(k publicKey) bool { return s.Hash == k.clock.KeyHash() }) {
			continue
		}
		if seconds, err := torchwood.CosignatureTimestamp(s); err == nil && (newest.IsZero() || seconds > newest.Unix()) {
			newest = time.Unix(seconds, 0).UTC()
		}
	}
	return newest
}
