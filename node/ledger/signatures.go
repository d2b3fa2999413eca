package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Own is a signed note with the signatures of these keys alone; nil if there is none. To keep the cosignatures
// of a policy too, see its Keep.
func (v *Verifier) Own(signed []byte) []byte { return cosign.Keep(signed, v) }

// Essence is all of a signed checkpoint that decides whether these keys signed it:
// the text, and of each of the keys the first signature. It is a signed checkpoint
// itself, and the same for all variants that differ in whatever else there may be in
// a note: the signatures of others, their order, repetitions, and unused bits of the
// base64. No signature is verified for it.
func (v *Verifier) Essence(signed []byte) ([]byte, error) {
	if len(signed) > MaxCheckpoint {
		return nil, fmt.Errorf("checkpoint of %d bytes: at most %d", len(signed), MaxCheckpoint)
	}
	// With no keys at all a well-formed note is one whose signatures are all
	// unverified, and nothing is verified.
	_, err := note.Open(signed, note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	var own []string
	seen := map[uint32]bool{}
	for _, s := range unverified.Note.UnverifiedSigs {
		if _, err := v.Verifier(s.Name, s.Hash); err != nil || seen[s.Hash] {
			continue
		}
		seen[s.Hash] = true
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			return nil, fmt.Errorf("checkpoint: %w", err)
		}
		own = append(own, fmt.Sprintf("— %s %s\n", s.Name, base64.StdEncoding.EncodeToString(raw)))
	}
	if len(own) == 0 {
		return nil, errors.New("checkpoint: no key of this ledger signed it")
	}
	slices.Sort(own)
	return []byte(unverified.Note.Text + "\n" + strings.Join(own, "")), nil
}
