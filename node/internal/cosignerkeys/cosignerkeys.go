// Package cosignerkeys keeps the keys of a member that cosigns in a file beside its state: one of ML-DSA-44 and
// one of Ed25519, made on the machine and never copied from it. It may import durable and cosign; the part of a
// node that cosigns calls it.
package cosignerkeys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Create makes the keys of a cosigner and writes them to a new file that only this user can read, a line each.
// If there is a file, it is left alone and the error is fs.ErrExist: whoever made other keys there would be a
// member that has forgotten what it signed. No two calls may run at a time.
func Create(file, name string) (signers []*cosign.Signer, err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making cosigner keys: %s: %w", file, errors.Join(fs.ErrExist, err))
	}
	var text strings.Builder
	for _, alg := range []cosign.Algorithm{cosign.MLDSA44, cosign.Ed25519} {
		s, err := cosign.Generate(alg, name)
		if err != nil {
			return nil, fmt.Errorf("making cosigner keys: %w", err)
		}
		fmt.Fprintln(&text, s.Secret())
		signers = append(signers, s)
	}
	// Crash before: there are no keys, and nobody has seen these. Crash after: they are used from the next start on.
	if err := durable.WriteSecret(file, []byte(text.String())); err != nil {
		return nil, fmt.Errorf("making cosigner keys: %w", err)
	}
	return signers, nil
}

// Read reads the keys that Create made; the error is fs.ErrNotExist if there are none. It never holds a key.
func Read(file string) (signers []*cosign.Signer, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("reading the cosigner keys: %w", err)
	}
	// A volume with an fsGroup lets the group read, which is the pod's own.
	if info.Mode()&0o007 != 0 {
		return nil, fmt.Errorf("reading the cosigner keys: everyone may use %s (mode %04o): make new keys, or 'chmod o= %[1]s' if nobody can have seen it", file, info.Mode().Perm())
	}
	data, err := durable.Read(file)
	if err != nil {
		return nil, fmt.Errorf("reading the cosigner keys: %w", err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		s, err := cosign.ParseSigner(line)
		if err != nil {
			return nil, fmt.Errorf("reading the cosigner keys: %s, line %d: %w", file, i+1, err)
		}
		signers = append(signers, s)
	}
	if len(signers) != 2 || signers[0].Key().Name() != signers[1].Key().Name() || signers[0].Key().Algorithm() == signers[1].Key().Algorithm() {
		return nil, fmt.Errorf("reading the cosigner keys: %s: want two keys of one name, of %s and of %s", file, cosign.MLDSA44, cosign.Ed25519)
	}
	return signers, nil
}
