package ledger

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// GenerateKey makes a signing key of a new ledger. The key's name is the
// ledger's origin (c2sp.org/tlog-checkpoint), a unique schema-less URL such
// as "example.com/pyrsia". skey is secret, vkey is what readers pin.
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
// The error never holds the key.
// vkey is the verifier key that belongs to it.
func NewSigner(skey string) (signer note.Signer, vkey string, err error) {
	skey = strings.TrimSpace(skey)
	signer, err = note.NewSigner(skey)
	if err != nil {
		return nil, "", fmt.Errorf("signing key: %w; want PRIVATE+KEY+NAME+HASH+DATA, as 'pyrsia keygen' writes it", err)
	}
	parts := strings.SplitN(skey, "+", 5) // PRIVATE, KEY, name, hash, data
	data, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return nil, "", errors.New("signing key: not an ed25519 key")
	}
	public := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	vkey, err = note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return nil, "", fmt.Errorf("signing key: %w", err)
	}
	return signer, vkey, nil
}

// NewVerifier reads a verifier key (c2sp.org/signed-note, "NAME+HASH+DATA").
func NewVerifier(vkey string) (note.Verifier, error) {
	verifier, err := note.NewVerifier(strings.TrimSpace(vkey))
	if err != nil {
		return nil, fmt.Errorf("verifier key %.80q: %w; want NAME+HASH+DATA, as 'pyrsia keygen' prints it", vkey, err)
	}
	return verifier, nil
}
