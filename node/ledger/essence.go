package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Essence is all of a signed checkpoint that decides whether this ledger's
// keys signed it: the text, and of each of its keys the first signature. It is
// a signed checkpoint itself, and the same for all variants that differ in
// whatever else there may be in a note: the signatures of others, their order,
// repetitions, and unused bits of the base64. No signature is verified for it.
func (l *Ledger) Essence(signed []byte) ([]byte, error) {
	return l.now().trust.verifier().essence(signed)
}

func (v *Verifier) essence(signed []byte) ([]byte, error) {
	if len(signed) > maxCheckpoint {
		return nil, fmt.Errorf("checkpoint of %d bytes: at most %d", len(signed), maxCheckpoint)
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
