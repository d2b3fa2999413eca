package cosign

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/mldsa"
)

// seedSize is that of both algorithms.
const seedSize = 32

// Signer is the key with which a member cosigns. It does not know what it has signed: whoever calls it must
// have recorded durably that the tree extends all that the key has signed before.
type Signer struct {
	key     *Key
	seed    []byte
	ed25519 ed25519.PrivateKey
	mldsa   *mldsa.PrivateKey
}

// Generate makes a new key of a cosigner. All keys of one cosigner have its name, which should be a
// schema-less URL such as "example.com/mirror-1".
func Generate(alg Algorithm, name string) (*Signer, error) {
	seed := make([]byte, seedSize)
	rand.Read(seed) // never fails
	return newSigner(alg, name, seed)
}

func newSigner(alg Algorithm, name string, seed []byte) (s *Signer, err error) {
	s = &Signer{seed: seed}
	var public []byte
	switch alg {
	case Ed25519:
		s.ed25519 = ed25519.NewKeyFromSeed(seed)
		public = s.ed25519.Public().(ed25519.PublicKey)
	case MLDSA44:
		if s.mldsa, err = mldsa.NewPrivateKey(mldsa.MLDSA44(), seed); err != nil {
			return nil, fmt.Errorf("cosigner key: %w", err)
		}
		public = s.mldsa.PublicKey().Bytes()
	default:
		return nil, fmt.Errorf("cosigner key of %s: want %s or %s", alg, MLDSA44, Ed25519)
	}
	if s.key, err = NewKey(name, alg, public); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseSigner reads a key as Secret writes it. The error never holds the key.
func ParseSigner(skey string) (*Signer, error) {
	malformed := errors.New("cosigner key: want PRIVATE+KEY+NAME+ID+KEY on a line of its own, as it was made")
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(skey, "PRIVATE+KEY+"), "\n"), "+")
	if !strings.HasPrefix(skey, "PRIVATE+KEY+") || len(parts) < 3 {
		return nil, malformed
	}
	// Base64 may have a plus, names and IDs may not.
	raw, err := base64.StdEncoding.DecodeString(strings.Join(parts[2:], "+"))
	if err != nil || len(raw) != 1+seedSize {
		return nil, malformed
	}
	s, err := newSigner(Algorithm(raw[0]), parts[0], raw[1:])
	if err != nil {
		return nil, err
	}
	if s.Secret() != strings.TrimSuffix(skey, "\n") {
		return nil, fmt.Errorf("cosigner key: it has another ID than the key of %s, %08x: it is damaged", s.key.name, s.key.id)
	}
	return s, nil
}

// Secret is the key as a line without its end, "PRIVATE+KEY+NAME+ID+KEY": the form of signed-note's Go
// package, with the signature type and the seed as the key.
func (s *Signer) Secret() string {
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", s.key.name, s.key.id, base64.StdEncoding.EncodeToString(append([]byte{byte(s.key.alg)}, s.seed...)))
}

// String is the verifier key, so that no log ever holds the secret one.
func (s *Signer) String() string { return s.key.String() }

// GoString is String for %#v.
func (s *Signer) GoString() string { return s.key.String() }

// Key is the public half.
func (s *Signer) Key() *Key { return s.key }

// Cosign cosigns the text of a checkpoint, as the largest consistent tree that the cosigner knows at a time.
// It returns a signature line, with its end.
func (s *Signer) Cosign(text string, at time.Time) (line string, err error) {
	if at.Unix() <= 0 {
		return "", fmt.Errorf("cosigning: the time %s is not after 1970: set this machine's clock", at)
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return "", fmt.Errorf("cosigning: %w", err)
	}
	t := uint64(at.Unix())
	if s.key.alg == MLDSA44 {
		return s.mldsaLine(t, Subtree{Origin: c.Origin, End: c.N, Hash: c.Hash})
	}
	return s.line(t, ed25519.Sign(s.ed25519, ed25519Message(t, text))), nil
}

// CosignSubtree cosigns a subtree, without a time: it says nothing about what else the cosigner knows.
func (s *Signer) CosignSubtree(t Subtree) (line string, err error) {
	if s.key.alg != MLDSA44 {
		return "", fmt.Errorf("cosigning a subtree: %s is an %s key, and only %s can do it", s.key.Short(), s.key.alg, MLDSA44)
	}
	return s.mldsaLine(0, t)
}

func (s *Signer) mldsaLine(at uint64, t Subtree) (string, error) {
	if err := t.check(); err != nil {
		return "", fmt.Errorf("cosigning: %w", err)
	}
	sig, err := s.mldsa.Sign(nil, mldsaMessage(s.key.name, at, t), nil)
	if err != nil {
		return "", fmt.Errorf("cosigning: %w", err)
	}
	return s.line(at, sig), nil
}

func (s *Signer) line(at uint64, sig []byte) string {
	return Line{Key: s.key, Sig: append(binary.BigEndian.AppendUint64(nil, at), sig...)}.String()
}
