package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// only is a signed note with the signatures of these keys alone, the first of each; nil if there is
// none. Anyone can add signatures to a checkpoint, as many as it may have: what this node keeps and
// passes on would grow by them, and a broken one under the name of a key that others trust would
// make them refuse the whole note. To keep cosignatures of further keys, such as witnesses, add the
// keys here.
func (v *Verifier) only(signed []byte) []byte {
	// With no keys at all a well-formed note is one of which no signature is verified.
	_, err := note.Open(signed, note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return nil
	}
	out := []byte(unverified.Note.Text + "\n")
	seen := map[uint32]bool{}
	for _, s := range unverified.Note.UnverifiedSigs {
		key, err := v.Verifier(s.Name, s.Hash)
		if err != nil || seen[s.Hash] {
			continue
		}
		// Four bytes of key ID stand before the signature.
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(raw) < 4 || !key.Verify([]byte(unverified.Note.Text), raw[4:]) {
			continue
		}
		seen[s.Hash] = true
		out = fmt.Appendf(out, "— %s %s\n", s.Name, s.Base64)
	}
	if len(seen) == 0 {
		return nil
	}
	return out
}

// own is a checkpoint with the signatures alone of the keys that sign the ledger on
// a tree: of the newest, and of those before it which sign beside it until all have
// heard of it.
func (t *trust) own(c Checkpoint) Checkpoint {
	v := t.verifier()
	for _, vkey := range t.given[max(0, len(t.given)-maxSigningKeys):] {
		if k, err := readPublicKey(vkey); err == nil {
			v.keys = append(v.keys, k)
		}
	}
	c.Signed = v.only(c.Signed)
	return c
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
	if _, err := proveBlock(v, []byte(r.Entry), []byte(r.Proof)); err != nil {
		return r, err
	}
	head, signed, _ := strings.Cut(r.Proof, "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) > 1 && strings.HasPrefix(lines[1], "extra ") {
		lines = append(lines[:1:1], lines[2:]...)
	}
	r.Proof = strings.Join(lines, "\n") + "\n\n" + string(v.only([]byte(signed)))
	return r, nil
}
