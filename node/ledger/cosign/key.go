package cosign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/mldsa"
)

// Algorithm is the signature type of a key (c2sp.org/signed-note, Signature types).
type Algorithm byte

// The algorithms that are understood. ML-DSA-44 is the one to use for new cosigners: it withstands
// quantum computers, and its signatures name the cosigner and can cover subtrees.
const (
	// Plain is the Ed25519 signature of a note's text, with which a log signs its checkpoints.
	Plain Algorithm = 0x01
	// Ed25519 is a cosignature with a time, over the whole text of a checkpoint.
	Ed25519 Algorithm = 0x04
	// MLDSA44 is a cosignature with a time, over origin, size and root alone.
	MLDSA44 Algorithm = 0x06
)

// String implements fmt.Stringer.
func (a Algorithm) String() string {
	switch a {
	case Plain, Ed25519:
		return "Ed25519"
	case MLDSA44:
		return "ML-DSA-44"
	default:
		return fmt.Sprintf("signature type 0x%02x", byte(a))
	}
}

// maxName bounds what an ML-DSA-44 cosignature names, the cosigner and the log: its lengths are single bytes.
const maxName = 255

// Key is the public key of a log or a cosigner. It implements note.Verifier and does not change.
type Key struct {
	name   string
	id     uint32
	alg    Algorithm
	public []byte
	mldsa  *mldsa.PublicKey // of MLDSA44 alone
}

// NewKey makes a key of its parts.
func NewKey(name string, alg Algorithm, public []byte) (*Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	k := &Key{name: name, alg: alg, public: bytes.Clone(public)}
	switch alg {
	case Plain, Ed25519:
		if len(public) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("key of %s: %d bytes: want the %d of an Ed25519 key", name, len(public), ed25519.PublicKeySize)
		}
	case MLDSA44:
		if len(name) > maxName {
			return nil, fmt.Errorf("key name of %d bytes: with ML-DSA-44 it has at most %d", len(name), maxName)
		}
		var err error
		if k.mldsa, err = mldsa.NewPublicKey(mldsa.MLDSA44(), public); err != nil {
			return nil, fmt.Errorf("key of %s: %d bytes are no ML-DSA-44 key of %d: %w", name, len(public), mldsa.MLDSA44PublicKeySize, err)
		}
	default:
		return nil, fmt.Errorf("key of %s: %s is not supported: want Ed25519 (0x01 of a log, 0x04 of a cosigner) or ML-DSA-44 (0x06)", name, alg)
	}
	hash := sha256.New()
	hash.Write([]byte(name + "\n"))
	hash.Write([]byte{byte(alg)})
	hash.Write(public)
	k.id = binary.BigEndian.Uint32(hash.Sum(nil))
	return k, nil
}

// ParseKey reads a verifier key (c2sp.org/signed-note, "NAME+ID+KEY"). There is one way to write a key:
// what differs from it, such as another ID, is refused.
func ParseKey(vkey string) (*Key, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	_, data, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil || len(raw) == 0 {
		return nil, fmt.Errorf("verifier key %.80q: want NAME+ID+KEY, with 8 hex digits and base64", vkey)
	}
	k, err := NewKey(name, Algorithm(raw[0]), raw[1:])
	if err != nil {
		return nil, err
	}
	if k.String() != vkey {
		return nil, fmt.Errorf("verifier key %.80q: the key of this name and type is written %.80q: copy it again", vkey, k)
	}
	return k, nil
}

// String is the verifier key.
func (k *Key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(append([]byte{byte(k.alg)}, k.public...)))
}

// Short is the key's name and ID, to name it in messages. Anyone can make another key with the same ones.
func (k *Key) Short() string { return fmt.Sprintf("%s+%08x", k.name, k.id) }

// Name implements note.Verifier.
func (k *Key) Name() string { return k.name }

// KeyHash implements note.Verifier.
func (k *Key) KeyHash() uint32 { return k.id }

// Algorithm is how the key signs.
func (k *Key) Algorithm() Algorithm { return k.alg }

// WithTime is the key of a log as it signs with the time, by a cosignature.
func (k *Key) WithTime() (*Key, error) { return NewKey(k.name, Ed25519, k.public) }

// SamePublicKey tells whether two keys are one, whatever their names and types (c2sp.org/tlog-policy).
func (k *Key) SamePublicKey(o *Key) bool { return bytes.Equal(k.public, o.public) }

// Verify implements note.Verifier: of a cosigner's key, for the texts of checkpoints alone.
func (k *Key) Verify(text, sig []byte) bool {
	if k.alg == Plain {
		return ed25519.Verify(k.public, text, sig)
	}
	c, err := ParseCheckpoint(string(text))
	if err != nil {
		return false
	}
	if k.alg == MLDSA44 {
		return k.VerifySubtree(Subtree{Origin: c.Origin, End: c.N, Hash: c.Hash}, sig)
	}
	t, sig, ok := cutTime(sig)
	return ok && ed25519.Verify(k.public, ed25519Message(t, string(text)), sig)
}

// VerifySubtree checks an ML-DSA-44 cosignature of a subtree, without or, if it begins at zero, with a time.
func (k *Key) VerifySubtree(s Subtree, sig []byte) bool {
	if k.alg != MLDSA44 || s.check() != nil {
		return false
	}
	t, sig, ok := cutTime(sig)
	if !ok || s.Start != 0 && t != 0 {
		return false
	}
	return mldsa.Verify(k.mldsa, mldsaMessage(k.name, t, s), sig, nil) == nil
}

func checkName(name string) error {
	bad := func(r rune) bool { return r < 0x20 || r == '+' || unicode.IsSpace(r) }
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("key name %.80q: want a name like example.com/mirror without spaces or '+'", name)
	}
	return nil
}
