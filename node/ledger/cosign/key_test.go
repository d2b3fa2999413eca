package cosign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

var now = time.Unix(1679315147, 0).UTC()

func generate(t testing.TB, alg Algorithm, name string) *Signer {
	t.Helper()
	s, err := Generate(alg, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func cosign(t testing.TB, s *Signer, text string, at time.Time) string {
	t.Helper()
	line, err := s.Cosign(text, at)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

var both = []Algorithm{Ed25519, MLDSA44}

// The keys are those of the other two implementations, in every form.
func TestKeysAreThoseOfOthers(t *testing.T) {
	for _, alg := range both {
		s := generate(t, alg, "witness.example.com/w1")
		judge, err := formats.NewVerifierForCosignatureV1(s.Key().String())
		if err != nil || judge.Name() != s.Key().Name() || judge.KeyHash() != s.Key().KeyHash() {
			t.Errorf("%s: formats reads %s: %v, %+v", alg, s.Key(), err, judge)
		}
		signer, err := formats.NewSignerForCosignatureV1(s.Secret())
		if err != nil || signer.KeyHash() != s.Key().KeyHash() {
			t.Errorf("%s: formats does not read the secret key: %v", alg, err)
		}
	}
	s := generate(t, Ed25519, "witness.example.com/w1")
	if judge, err := torchwood.NewCosignatureVerifier(s.Key().String()); err != nil || judge.String() != s.Key().String() {
		t.Errorf("torchwood reads %s: %v", s.Key(), err)
	}
	skey, vkey, err := formats.GenerateMLDSAKey("example.com/other")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := ParseSigner(skey); err != nil || s.Key().String() != vkey || s.Secret() != skey {
		t.Errorf("a key that formats made: %v", err)
	}
}

// What this package cosigns, the others verify, and the other way round.
func TestCosignaturesAreThoseOfOthers(t *testing.T) {
	for _, alg := range both {
		s := generate(t, alg, "witness.example.com/w1")
		judge, err := formats.NewVerifierForCosignatureV1(s.Key().String())
		if err != nil {
			t.Fatal(err)
		}
		judges := []note.Verifier{judge}
		signer, err := formats.NewSignerForCosignatureV1(s.Secret())
		if err != nil {
			t.Fatal(err)
		}
		signers := []note.Signer{signer}
		if alg == Ed25519 {
			v, err := torchwood.NewCosignatureVerifier(s.Key().String())
			if err != nil {
				t.Fatal(err)
			}
			c, err := torchwood.NewCosignatureSigner(s.Key().Name(), s.ed25519)
			if err != nil {
				t.Fatal(err)
			}
			judges, signers = append(judges, v), append(signers, c)
		}
		ours := text + "\n" + cosign(t, s, text, now)
		for i, judge := range judges {
			n, err := note.Open([]byte(ours), note.VerifierList(judge))
			if err != nil {
				t.Errorf("%s: judge %d: %v", alg, i, err)
				continue
			}
			if at, err := formats.CoSigV1Timestamp(n.Sigs[0]); err != nil || !at.Equal(now) {
				t.Errorf("%s: the time is read as %s, %v, want %s", alg, at, err, now)
			}
		}
		for i, signer := range signers {
			theirs, err := note.Sign(&note.Note{Text: text}, signer)
			if err != nil {
				t.Fatal(err)
			}
			n, err := Open(theirs, note.VerifierList(s.Key()))
			if err != nil || len(n.Lines) != 1 || time.Since(n.Lines[0].Time()).Abs() > time.Minute {
				t.Errorf("%s: signer %d: %+v, %v", alg, i, n, err)
			}
		}
	}
}

func TestSubtreesAreThoseOfOthers(t *testing.T) {
	s := generate(t, MLDSA44, "example.com/mirror")
	signer, err := formats.NewMLDSASigner(s.Secret())
	if err != nil {
		t.Fatal(err)
	}
	judge, err := formats.NewMLDSAVerifier(s.Key().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]int64{{0, 1}, {0, 13}, {8, 13}, {256, 512}} {
		sub := Subtree{Origin: "example.com/log", Start: r[0], End: r[1], Hash: tlog.Hash{1, 2, 3}}
		line, err := s.CosignSubtree(sub)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := base64.StdEncoding.DecodeString(strings.Fields(line)[2])
		if err != nil {
			t.Fatal(err)
		}
		if !judge.VerifySubtree(0, sub.Origin, uint64(r[0]), uint64(r[1]), sub.Hash[:], raw[4:]) {
			t.Errorf("%v: formats refuses it", r)
		}
		theirs, err := signer.SignSubtree(0, sub.Origin, uint64(r[0]), uint64(r[1]), sub.Hash[:])
		if err != nil || !s.Key().VerifySubtree(sub, theirs) {
			t.Errorf("%v: %v, and theirs is refused", r, err)
		}
		for name, other := range map[string]Subtree{
			"origin": {"example.com/other", r[0], r[1], sub.Hash},
			"range":  {sub.Origin, 0, r[1] + 1, sub.Hash},
			"hash":   {sub.Origin, r[0], r[1], tlog.Hash{}},
		} {
			if s.Key().VerifySubtree(other, theirs) {
				t.Errorf("%v: it verifies for another %s", r, name)
			}
		}
	}
	for _, sub := range []Subtree{{"", 0, 1, tlog.Hash{}}, {"o", 8, 17, tlog.Hash{}}, {"o", 4, 4, tlog.Hash{}}, {"o", 3, 5, tlog.Hash{}}, {"o", -1, 5, tlog.Hash{}}, {strings.Repeat("o", 256), 0, 1, tlog.Hash{}}} {
		if _, err := s.CosignSubtree(sub); err == nil {
			t.Errorf("%+.60v is cosigned", sub)
		}
	}
	if _, err := generate(t, Ed25519, "a").CosignSubtree(Subtree{"o", 0, 1, tlog.Hash{}}); err == nil {
		t.Error("an Ed25519 key cosigned a subtree")
	}
	// With a time it says what is the largest tree, which a part of one is not.
	dated := s.mldsaSignature(t, 5, Subtree{"o", 8, 13, tlog.Hash{}})
	if s.Key().VerifySubtree(Subtree{"o", 8, 13, tlog.Hash{}}, dated) {
		t.Error("a subtree in the middle with a time verifies")
	}
}

// mldsaSignature signs whatever it is given.
func (s *Signer) mldsaSignature(t *testing.T, at uint64, sub Subtree) []byte {
	t.Helper()
	sig, err := s.mldsa.Sign(nil, mldsaMessage(s.key.name, at, sub), nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(bytes.Clone([]byte{0, 0, 0, 0, 0, 0, 0, byte(at)}), sig...)
}

// The example of c2sp.org/signed-note.
func TestExampleOfSignedNote(t *testing.T) {
	k, err := ParseKey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
	if err != nil || k.Algorithm() != Plain {
		t.Fatal(k, err)
	}
	signed := "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
	if n, err := Open([]byte(signed), note.VerifierList(k)); err != nil || len(n.Lines) != 1 || !n.Lines[0].Time().IsZero() || n.Lines[0].String() != "— "+strings.Split(signed, "— ")[1] {
		t.Errorf("%+v, %v", n, err)
	}
}

// The examples of c2sp.org/tlog-cosignature: a line, and the message that it signs.
func TestExampleOfCosignature(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString("jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==")
	if err != nil {
		t.Fatal(err)
	}
	l := Line{Key: &Key{alg: Ed25519}, Sig: raw[4:]}
	at, sig, ok := cutTime(l.Sig)
	if !l.Time().Equal(now) || at != 1679315147 || !ok || len(sig) != ed25519.SignatureSize {
		t.Errorf("it is read as of %s, with %d bytes", l.Time(), len(sig))
	}
	want := "cosignature/v1\ntime 1679315147\n" + text
	if got := string(ed25519Message(at, text)); got != want {
		t.Errorf("signed is %q, want %q", got, want)
	}
	// The structure of the ML-DSA-44 message, by hand.
	sub := Subtree{Origin: "o", Start: 0, End: 0x0102, Hash: tlog.Hash{31: 7}}
	message := "subtree/v1\n\x00" + "\x02ab" + "\x00\x00\x00\x00\x64\x18\x50\xcb" + "\x01o" + strings.Repeat("\x00", 8) + "\x00\x00\x00\x00\x00\x00\x01\x02" + strings.Repeat("\x00", 31) + "\x07"
	if got := string(mldsaMessage("ab", at, sub)); got != message {
		t.Errorf("signed is %q, want %q", got, message)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	good := generate(t, Ed25519, "example.com/w").Key()
	name, data := "example.com/w", base64.StdEncoding.EncodeToString(append([]byte{4}, good.public...))
	// 33 bytes fill the base64, so that only a longer key has unused bits.
	mldsa := generate(t, MLDSA44, "w").Key().String()
	for _, c := range []struct{ name, vkey, want string }{
		{"nothing", "", "want NAME+ID+KEY"},
		{"no key", name + "+00000000", "want NAME+ID+KEY"},
		{"another ID", name + "+00000000+" + data, "is written"},
		{"upper case", fmt.Sprintf("%s+%08X+%s", name, good.id, data), "is written"},
		{"a type that is not supported", name + "+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{2}, good.public...)), "0x02"},
		{"a short key", name + "+00000000+" + base64.StdEncoding.EncodeToString([]byte{4, 1, 2}), "32 of an Ed25519 key"},
		{"a short ML-DSA key", name + "+00000000+" + base64.StdEncoding.EncodeToString([]byte{6, 1, 2}), "1312"},
		{"an empty name", "+00000000+" + data, "key name"},
		{"a name with a space", "a b+00000000+" + data, "key name"},
		{"a name with a no-break space", "a\u00a0b+00000000+" + data, "key name"},
		{"a name with a control character", "a\x01b+00000000+" + data, "key name"},
		{"a name that is no UTF-8", "a\xff+00000000+" + data, "key name"},
		{"a line break in the base64", good.String()[:len(good.String())-4] + "\n" + good.String()[len(good.String())-4:], "is written"},
		{"something after it", good.String() + " ", "want NAME+ID+KEY"},
		{"unused bits of the base64", mldsa[:len(mldsa)-2] + string(mldsa[len(mldsa)-2]+1) + "=", "is written"},
		{"a name that is too long for ML-DSA", strings.Repeat("n", 256) + mldsa[1:], "at most 255"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if k, err := ParseKey(c.vkey); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, %v, want %q", k, err, c.want)
			}
		})
	}
}

// A secret key is read as it was written, and is in no message.
func TestSecretKeys(t *testing.T) {
	for _, alg := range both {
		s := generate(t, alg, "example.com/m")
		again, err := ParseSigner(s.Secret() + "\n")
		if err != nil || again.Key().String() != s.Key().String() || again.Secret() != s.Secret() {
			t.Errorf("%s: %v", alg, err)
		}
		secret := s.Secret()
		inner := strings.SplitN(secret, "+", 5)[4][4:20]
		for name, damaged := range map[string]string{
			"another ID":   strings.Replace(secret, fmt.Sprintf("%08x", s.key.id), "00000000", 1),
			"cut":          secret[:len(secret)-8],
			"another name": strings.Replace(secret, "example.com/m", "example.com/n", 1),
			"no start":     strings.TrimPrefix(secret, "PRIVATE+"),
			"a log's type": "PRIVATE+KEY+a+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{1}, s.seed...)),
		} {
			_, err := ParseSigner(damaged)
			if err == nil || strings.Contains(err.Error(), inner) {
				t.Errorf("%s: %s: %v", alg, name, err)
			}
		}
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if out := fmt.Sprintf(format, s); out != s.Key().String() {
				t.Errorf("%s prints %.40q", format, out)
			}
		}
	}
	if _, err := Generate(Plain, "example.com/m"); err == nil {
		t.Error("a cosigner with the key of a log")
	}
	if _, err := Generate(MLDSA44, "a b"); err == nil {
		t.Error("a name with a space")
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
	f.Add(generate(f, Ed25519, "a/b").Key().String())
	f.Add(generate(f, MLDSA44, "a/b").Key().String())
	f.Add(generate(f, Ed25519, "a/b").Secret())
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Errorf("%q is read, and written %q", s, k)
		}
		if k, err := ParseSigner(s); err == nil && k.Secret() != strings.TrimSuffix(s, "\n") {
			t.Errorf("%q is read, and written otherwise", s)
		}
	})
}
