package ledger

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

// MaxSigningKeys bounds the keys that sign one ledger at a time: the old one
// and the new one during a rotation.
const MaxSigningKeys = 2

// GenerateKey makes a signing key of a ledger. The key's name is the ledger's
// origin (c2sp.org/tlog-checkpoint), a unique schema-less URL such as
// "example.com/pyrsia". skey is secret, vkey is what readers pin.
func GenerateKey(origin string) (skey, vkey string, err error) {
	if origin == "" || len(origin) > 255 || strings.ContainsAny(origin, " \t\n+") {
		return "", "", fmt.Errorf("origin %q: want a name like example.com/pyrsia without spaces or '+'", origin)
	}
	skey, vkey, err = note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", "", fmt.Errorf("making a signing key: %w", err)
	}
	return skey, vkey, nil
}

// NewSigner reads a signing key (c2sp.org/signed-note, "PRIVATE+KEY+...").
// The error never holds the key. vkey is the verifier key that belongs to it.
func NewSigner(skey string) (signer note.Signer, vkey string, err error) {
	k, err := readSigningKey(skey)
	if err != nil {
		return nil, "", err
	}
	return k.Signer, k.Key, nil
}

// SigningKey is one key with which a publisher signs checkpoints: by a
// signature, and by a cosignature that says when.
type SigningKey struct {
	Signer note.Signer
	Clock  note.Signer // c2sp.org/tlog-cosignature
	Key    string      // the verifier key that belongs to it
}

// ReadSigningKeys reads one key a line, the ledger's first. All name one origin.
func ReadSigningKeys(text string) ([]SigningKey, error) {
	lines := strings.Fields(text)
	if len(lines) == 0 || len(lines) > MaxSigningKeys {
		return nil, fmt.Errorf("signing key: %d keys: want one, or the old and the new one during a rotation, each on a line", len(lines))
	}
	var out []SigningKey
	for _, line := range lines {
		k, err := readSigningKey(line)
		if err != nil {
			return nil, err
		}
		if len(out) > 0 && k.Signer.Name() != out[0].Signer.Name() {
			return nil, fmt.Errorf("signing key: origins %s and %s: make the new key with --origin %[1]s", out[0].Signer.Name(), k.Signer.Name())
		}
		if len(out) > 0 && k.Key == out[0].Key {
			return nil, errors.New("signing key: the same key twice")
		}
		out = append(out, k)
	}
	return out, nil
}

func readSigningKey(skey string) (k SigningKey, err error) {
	skey = strings.TrimSpace(skey)
	k.Signer, err = note.NewSigner(skey)
	if err != nil {
		return k, fmt.Errorf("signing key: %w; want PRIVATE+KEY+NAME+HASH+DATA, as 'pyrsia keygen' writes it", err)
	}
	parts := strings.SplitN(skey, "+", 5) // PRIVATE, KEY, name, hash, data
	data, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return k, errors.New("signing key: not an ed25519 key")
	}
	private := ed25519.NewKeyFromSeed(data[1:])
	k.Key, err = note.NewEd25519VerifierKey(k.Signer.Name(), private.Public().(ed25519.PublicKey))
	if err != nil {
		return k, fmt.Errorf("signing key: %w", err)
	}
	if k.Clock, err = torchwood.NewCosignatureSigner(k.Signer.Name(), private); err != nil {
		return k, fmt.Errorf("signing key: %w", err)
	}
	return k, nil
}
