package cosign

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// What a cosignature covers, and what it must not verify for.
func TestWhatIsCosigned(t *testing.T) {
	extended := text + "an extension\n"
	for _, alg := range both {
		s := generate(t, alg, "example.com/w")
		raw := sigOf(t, cosign(t, s, text, now))
		with := func(at uint64) []byte { return append(binary.BigEndian.AppendUint64(nil, at), raw[8:]...) }
		for _, c := range []struct {
			name, text string
			sig        []byte
			want       bool
		}{
			{"as it is", text, raw, true},
			{"another size", strings.Replace(text, "20852163", "20852164", 1), raw, false},
			{"another root", strings.Replace(text, "CsUY", "DsUY", 1), raw, false},
			{"another origin", strings.Replace(text, "sofa", "wall", 1), raw, false},
			{"another time", text, with(uint64(now.Unix()) + 1), false},
			{"no time", text, with(0), false},
			{"a time of more than 63 bits", text, with(math.MaxUint64), false},
			{"cut", text, raw[:len(raw)-1], false},
			{"longer", text, append(slices.Clone(raw), 0), false},
			{"nothing", text, nil, false},
			{"seven bytes", text, raw[:7], false},
			{"leading zero of the size", strings.Replace(text, "20852163", "020852163", 1), raw, false},
			{"no checkpoint", "hello\n", raw, false},
			// ML-DSA-44 says nothing about extension lines, Ed25519 covers the text.
			{"an extension line added", extended, raw, alg == MLDSA44},
		} {
			if got := s.Key().Verify([]byte(c.text), c.sig); got != c.want {
				t.Errorf("%s: %s: it verifies: %t", alg, c.name, got)
			}
		}
		if !s.Key().Verify([]byte(extended), sigOf(t, cosign(t, s, extended, now))) {
			t.Errorf("%s: a checkpoint with an extension line is not cosigned", alg)
		}
		// A cosigner of another name is another cosigner, with ML-DSA-44 also for who has the same key.
		other, err := NewKey("example.com/x", alg, s.Key().public)
		if err != nil {
			t.Fatal(err)
		}
		if got := other.Verify([]byte(text), raw); got != (alg == Ed25519) || other.KeyHash() == s.Key().KeyHash() || !other.SamePublicKey(s.Key()) {
			t.Errorf("%s: under another name: %t", alg, got)
		}
		for name, bad := range map[string]string{
			"no checkpoint": "hello\n", "no end": strings.TrimSuffix(text, "\n"), "no origin": "\n" + strings.SplitN(text, "\n", 2)[1],
			"an empty extension line": text + "\n", "a negative size": strings.Replace(text, "20852163", "-1", 1),
			"unused bits in the root": strings.Replace(text, "q2I=", "q2J=", 1),
		} {
			if _, err := s.Cosign(bad, now); err == nil {
				t.Errorf("%s: %s is cosigned", alg, name)
			}
		}
		if _, err := s.Cosign(text, time.Unix(0, 0)); err == nil {
			t.Errorf("%s: it is cosigned without a time", alg)
		}
	}
	long := generate(t, MLDSA44, "a")
	if _, err := long.Cosign(strings.Repeat("o", 256)+text[strings.Index(text, "\n"):], now); err == nil {
		t.Error("an origin whose length does not fit is cosigned")
	}
	if k := generate(t, MLDSA44, strings.Repeat("a", 255)); !k.Key().Verify([]byte(strings.Repeat("o", 255)+"\n1\n"+strings.SplitN(text, "\n", 3)[2]), sigOf(t, cosign(t, k, strings.Repeat("o", 255)+"\n1\n"+strings.SplitN(text, "\n", 3)[2], now))) {
		t.Error("names of 255 bytes")
	}
}

func sigOf(t testing.TB, line string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(strings.Fields(line)[2])
	if err != nil {
		t.Fatal(err)
	}
	return raw[4:]
}

// Anyone can add lines to a note. What is kept is what verifies, in one form.
func TestOnlyWhatVerifiesIsKept(t *testing.T) {
	ed, ml := generate(t, Ed25519, "example.com/w"), generate(t, MLDSA44, "example.com/w")
	edLine, mlLine := cosign(t, ed, text, now), cosign(t, ml, text, now)
	stranger := cosign(t, generate(t, Ed25519, "example.com/w"), text, now)
	broken := Line{Key: ed.Key(), Sig: make([]byte, 72)}.String()
	fields := strings.Fields(edLine)
	// The last digit before the padding has bits that say nothing.
	loose := fmt.Sprintf("— %s %s\n", fields[1], fields[2][:len(fields[2])-3]+string(fields[2][len(fields[2])-3]+1)+"==")
	keys := note.VerifierList(ed.Key(), ml.Key())
	for _, c := range []struct{ name, lines, want string }{
		{"both", edLine + mlLine, edLine + mlLine},
		{"twice", edLine + mlLine + edLine, edLine + mlLine},
		{"strangers", stranger + edLine + stranger, edLine},
		{"broken before", broken + edLine, edLine},
		{"broken after", edLine + broken, edLine},
		{"unused bits", loose, edLine},
		{"the newest of a key", cosign(t, ed, text, now.Add(-time.Hour)) + edLine, edLine},
		{"the newest of a key, first", edLine + cosign(t, ed, text, now.Add(-time.Hour)), edLine},
	} {
		if got := string(Keep([]byte(text+"\n"+c.lines), keys)); got != text+"\n"+c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	for name, signed := range map[string]string{
		"strangers alone": text + "\n" + stranger,
		"broken alone":    text + "\n" + broken,
		"no note":         text,
		"too large":       text + "\n" + edLine + "— " + strings.Repeat("a", MaxNote) + " AAAAAAA=\n",
	} {
		if got := Keep([]byte(signed), keys); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	n, err := Open([]byte(text+"\n"+broken+mlLine), keys)
	if err != nil || len(n.Broken) != 1 || n.Broken[0] != note.Verifier(ed.Key()) || len(n.Lines) != 1 {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := Open([]byte(text+"\n"+broken+edLine), keys); err != nil || len(n.Broken) != 0 {
		t.Errorf("a key that signed is called broken: %+v, %v", n, err)
	}
}

// What every verifier accepts is 16 signatures of 5 kB. A cosigner counts once, so it loses a line before another
// loses all.
func TestSixteenSignaturesAreKept(t *testing.T) {
	var lines strings.Builder
	var keys []note.Verifier
	add := func(alg Algorithm, name string) {
		s := generate(t, alg, name)
		lines.WriteString(cosign(t, s, text, now))
		keys = append(keys, s.Key())
	}
	for i := range 7 {
		add(Ed25519, fmt.Sprint("example.com/m", i))
		add(MLDSA44, fmt.Sprint("example.com/m", i))
	}
	for i := range 4 {
		add(Ed25519, fmt.Sprint("example.com/w", i))
	}
	got := string(Keep([]byte(text+"\n"+lines.String()), note.VerifierList(keys...)))
	if n := strings.Count(got, "— "); n != MaxSignatures {
		t.Errorf("%d lines", n)
	}
	for i := range 7 {
		if !strings.Contains(got, fmt.Sprintf("— example.com/m%d ", i)) {
			t.Errorf("nothing of member %d", i)
		}
	}
	for i := range 4 {
		if !strings.Contains(got, fmt.Sprintf("— example.com/w%d ", i)) {
			t.Errorf("nothing of witness %d", i)
		}
	}
	lines.Reset()
	keys = nil
	for i := range MaxSignatures {
		add(MLDSA44, fmt.Sprint("example.com/", strings.Repeat("long", 60), i))
	}
	if got := Keep([]byte(text+"\n"+lines.String()), note.VerifierList(keys...)); len(got) == 0 || strings.Count(string(got), "— ") != MaxSignatures {
		t.Errorf("16 signatures of ML-DSA-44 have %d bytes and are cut", lines.Len())
	}
}

// Cosignatures that come late join those that are there.
func TestLateCosignaturesAreMerged(t *testing.T) {
	a, b := generate(t, Ed25519, "a"), generate(t, MLDSA44, "b")
	keys := note.VerifierList(a.Key(), b.Key())
	old, later, line := cosign(t, a, text, now), cosign(t, a, text, now.Add(time.Minute)), cosign(t, b, text, now)
	for _, c := range []struct{ name, one, two, want string }{
		{"another cosigner", old, line, old + line},
		{"a newer time", old + line, later, later + line},
		{"an older time", later, old + line, later + line},
		{"a stranger", old, cosign(t, generate(t, Ed25519, "c"), text, now), old},
	} {
		got, err := Merge([]byte(text+"\n"+c.one), []byte(text+"\n"+c.two), keys)
		if err != nil || string(got) != text+"\n"+c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	other := strings.Replace(text, "20852163", "1", 1)
	for name, two := range map[string]string{"another text": other + "\n" + cosign(t, b, other, now), "no note": text} {
		if got, err := Merge([]byte(text+"\n"+old), []byte(two), keys); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got, err := Merge([]byte(text+"\n"+old), []byte(text+"\n"+line), note.VerifierList()); err == nil {
		t.Errorf("no key is known: %q", got)
	}
}

// What is kept is a signed note that strict readers open, and is kept as it is.
func FuzzKeep(f *testing.F) {
	ed, ml := generate(f, Ed25519, "a"), generate(f, MLDSA44, "a")
	f.Add([]byte(text + "\n" + cosign(f, ed, text, now) + cosign(f, ml, text, now)))
	f.Add([]byte(text + "\n" + Line{Key: ed.Key(), Sig: make([]byte, 72)}.String() + cosign(f, ed, text, now)))
	f.Add([]byte(text + "\n— a AAAAAAA=\n"))
	keys := note.VerifierList(ed.Key(), ml.Key())
	f.Fuzz(func(t *testing.T, signed []byte) {
		kept := Keep(signed, keys)
		if kept == nil {
			return
		}
		n, err := note.Open(kept, keys)
		if err != nil || len(n.UnverifiedSigs) > 0 || len(n.Sigs) == 0 {
			t.Errorf("%q is kept as %q: %v", signed, kept, err)
		}
		if again := Keep(kept, keys); string(again) != string(kept) {
			t.Errorf("%q is kept as %q, and that as %q", signed, kept, again)
		}
	})
}
