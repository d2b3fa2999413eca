package cosign

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const (
	// MaxNote bounds a signed checkpoint in bytes. A verifier must accept 16 signatures of 5 kB each
	// beside those of the log itself (c2sp.org/signed-note); five of ML-DSA-44 are 16.7 kB already.
	MaxNote = 96 << 10
	// MaxSignatures is how many lines are kept and handed on: no verifier has to accept more
	// (c2sp.org/signed-note, Format).
	MaxSignatures = 16
)

// Note is a signed note with those of its lines that verify.
type Note struct {
	Text  string
	Lines []Line // at most one of each key
	// Broken are the keys under whose name and ID there is a line that does not verify, and none that does.
	Broken []note.Verifier
}

// Line is a signature line that was verified.
type Line struct {
	Key note.Verifier
	Sig []byte // what follows the key ID
}

// String is the line with its end.
func (l Line) String() string {
	raw := append(binary.BigEndian.AppendUint32(nil, l.Key.KeyHash()), l.Sig...)
	return fmt.Sprintf("— %s %s\n", l.Key.Name(), base64.StdEncoding.EncodeToString(raw))
}

// Time is when a cosigner cosigned, by its clock; zero if the line does not say.
func (l Line) Time() time.Time {
	k, ok := l.Key.(*Key)
	if !ok || k.alg == Plain {
		return time.Time{}
	}
	if t, _, ok := cutTime(l.Sig); ok && t > 0 {
		return time.Unix(int64(t), 0).UTC()
	}
	return time.Time{}
}

// Open reads a signed note and verifies its lines under keys. Lines of other keys, and lines that do not
// verify, are left out: anyone who passes a note on can add them, and one broken line under the name of a
// real cosigner must not make all others worthless. note.Open refuses such a note. Of the lines of one key
// the newest counts.
func Open(signed []byte, keys note.Verifiers) (Note, error) {
	if len(signed) > MaxNote {
		return Note{}, fmt.Errorf("signed note of %d bytes: at most %d", len(signed), MaxNote)
	}
	// With no keys at all a well-formed note is one of which no signature is verified.
	_, err := note.Open(signed, note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return Note{}, fmt.Errorf("signed note: %w", err)
	}
	n := Note{Text: unverified.Note.Text}
	for _, s := range unverified.Note.UnverifiedSigs {
		key, err := keys.Verifier(s.Name, s.Hash)
		if err != nil || key.Name() != s.Name || key.KeyHash() != s.Hash {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(raw) < 4 || !key.Verify([]byte(n.Text), raw[4:]) {
			if !slices.Contains(n.Broken, key) {
				n.Broken = append(n.Broken, key)
			}
			continue
		}
		n.add(Line{Key: key, Sig: raw[4:]})
	}
	n.Broken = slices.DeleteFunc(n.Broken, func(k note.Verifier) bool { return n.of(k) >= 0 })
	return n, nil
}

// of is the index of a key's line; -1 if there is none.
func (n *Note) of(k note.Verifier) int {
	return slices.IndexFunc(n.Lines, func(l Line) bool { return l.Key.Name() == k.Name() && l.Key.KeyHash() == k.KeyHash() })
}

// add takes a verified line, unless there is one of the same key that is as new.
func (n *Note) add(l Line) {
	switch i := n.of(l.Key); {
	case i < 0:
		n.Lines = append(n.Lines, l)
	case l.Time().After(n.Lines[i].Time()):
		n.Lines[i] = l
	}
}

// Keep is a signed note with those of its lines alone that verify under keys, at most MaxSignatures; nil if
// there are none. What a node keeps and hands on must pass it: strangers can add lines without end.
func Keep(signed []byte, keys note.Verifiers) []byte {
	n, err := Open(signed, keys)
	if err != nil || len(n.Lines) == 0 {
		return nil
	}
	return n.Marshal()
}

// Merge joins the lines of two copies of one note, as when cosignatures come late. Lines that do not verify
// under keys are left out, and of the lines of one key the newer one counts.
func Merge(a, b []byte, keys note.Verifiers) ([]byte, error) {
	n, err := Open(a, keys)
	if err != nil {
		return nil, err
	}
	o, err := Open(b, keys)
	if err != nil {
		return nil, err
	}
	if n.Text != o.Text {
		return nil, errors.New("merging cosignatures: the notes have different texts")
	}
	for _, l := range o.Lines {
		n.add(l)
	}
	if len(n.Lines) == 0 {
		return nil, errors.New("merging cosignatures: no line verifies under a known key")
	}
	return n.Marshal(), nil
}

// Marshal is the signed note with at most MaxSignatures lines. Where there are more, cosigners that also
// signed by ML-DSA-44 lose their Ed25519 line first, for they count once; then the last lines go.
func (n Note) Marshal() []byte {
	lines := slices.Clone(n.Lines)
	for i := len(lines) - 1; i >= 0 && len(lines) > MaxSignatures; i-- {
		if is(lines[i], Ed25519) && slices.ContainsFunc(lines, func(l Line) bool { return is(l, MLDSA44) && l.Key.Name() == lines[i].Key.Name() }) {
			lines = slices.Delete(lines, i, i+1)
		}
	}
	var out strings.Builder
	out.WriteString(n.Text + "\n")
	for _, l := range lines[:min(len(lines), MaxSignatures)] {
		out.WriteString(l.String())
	}
	return []byte(out.String())
}

func is(l Line, alg Algorithm) bool {
	k, ok := l.Key.(*Key)
	return ok && k.alg == alg
}
