package tlogmirror

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

const (
	keysFile   = "cosigner.json"
	keysFormat = 1
)

// keyring are the keys of a cosigner. They are made beside the records of what they
// sign, and are not to be kept anywhere else: a key that outlives its records would
// sign a second history.
type keyring struct {
	Format int `json:"format"`
	// Keys are secret, one for each algorithm.
	Keys []string `json:"keys"`
	// Origins are those for which there is a record. A key signs for no origin before
	// it is listed: so a record that is missing was lost, and is not a new one.
	Origins []string `json:"origins"`

	signers []*cosign.Signer
}

// openKeys reads the keys in a folder, or makes them if nothing is there.
func openKeys(path, name string) (*keyring, error) {
	data, err := os.ReadFile(filepath.Join(path, keysFile))
	if errors.Is(err, fs.ErrNotExist) {
		return makeKeys(path, name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cosigner's keys: %w", err)
	}
	k := new(keyring)
	if err := json.Unmarshal(data, k); err != nil {
		return nil, fmt.Errorf("the cosigner's keys in %s are damaged: move the folder away, a new member with new keys takes its place", path)
	}
	if k.Format != keysFormat || len(k.Keys) == 0 {
		return nil, fmt.Errorf("the cosigner's keys in %s have format %d, this program knows %d: run the release that wrote them, or a later one", path, k.Format, keysFormat)
	}
	for _, secret := range k.Keys {
		s, err := cosign.ParseSigner(secret)
		if err != nil {
			return nil, fmt.Errorf("the cosigner's keys in %s: %w", path, err)
		}
		if s.Key().Name() != name {
			return nil, fmt.Errorf("the keys in %s are of the cosigner %s, not of %s: give it its name back, or another folder", path, s.Key().Name(), name)
		}
		k.signers = append(k.signers, s)
	}
	return k, nil
}

func makeKeys(path, name string) (*keyring, error) {
	folders, err := filepath.Glob(filepath.Join(path, "*", recordFile))
	if err != nil {
		return nil, fmt.Errorf("looking for records of a cosigner: %w", err)
	}
	if len(folders) > 0 {
		return nil, fmt.Errorf("%s has the records of a cosigner whose keys are gone: move the folder away, a new member with new keys takes its place", path)
	}
	k := &keyring{Format: keysFormat}
	// ML-DSA-44 is the one for new deployments (c2sp.org/tlog-cosignature); Ed25519 is
	// for readers that know no other yet.
	for _, alg := range []cosign.Algorithm{cosign.MLDSA44, cosign.Ed25519} {
		s, err := cosign.Generate(alg, name)
		if err != nil {
			return nil, err
		}
		k.signers = append(k.signers, s)
		k.Keys = append(k.Keys, s.Secret())
	}
	return k, k.write(path)
}

// write stores the keys.
func (k *keyring) write(path string) error {
	data, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("storing the cosigner's keys: %w", err)
	}
	// Crash before the keys were ever stored: the next start makes others, and nobody
	// has seen these. Before a further origin is listed: its record is there, is as it
	// was made, and is listed at the next start.
	if err := durable.WriteSecret(filepath.Join(path, keysFile), data); err != nil {
		return fmt.Errorf("storing the cosigner's keys: %w", err)
	}
	return nil
}

// begin lists an origin, durably.
func (k *keyring) begin(path, origin string) error {
	if slices.Contains(k.Origins, origin) {
		return nil
	}
	listed := *k
	listed.Origins = append(slices.Clone(k.Origins), origin)
	if err := listed.write(path); err != nil {
		return err
	}
	k.Origins = listed.Origins
	return nil
}

// vkeys are the verifier keys.
func (k *keyring) vkeys() (out []string) {
	for _, s := range k.signers {
		out = append(out, s.Key().String())
	}
	return out
}

// id is the keys' quorum.State.Key.
func (k *keyring) id() string {
	vkeys := k.vkeys()
	slices.Sort(vkeys)
	sum := sha256.Sum256([]byte(strings.Join(vkeys, "\n")))
	return hex.EncodeToString(sum[:])
}

func (k *keyring) verifiers() note.Verifiers {
	var out []note.Verifier
	for _, s := range k.signers {
		out = append(out, s.Key())
	}
	return note.VerifierList(out...)
}
