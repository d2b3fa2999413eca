package replica

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Whatever may be written into a checkpoint beside what the ledger's key has
// signed, it is the same checkpoint.
func TestEssenceIsWhatWasSigned(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	head, _ := p.Head()
	want, err := p.Essence(head.Signed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.VerifyCheckpoint(want); err != nil {
		t.Fatalf("the essence does not verify: %v", err)
	}
	text, lines, _ := strings.Cut(string(head.Signed), "\n\n")
	own := strings.SplitAfter(strings.TrimSuffix(lines, "\n"), "\n")
	own[len(own)-1] += "\n"
	reversed := slices.Clone(own)
	slices.Reverse(reversed)
	foreign := fmt.Sprintf("— %s %s\n", p.Origin(), base64.StdEncoding.EncodeToString([]byte("1234 not of this key")))
	for name, variant := range map[string]string{
		"signatures of others":        lines + "— witness.example " + base64.StdEncoding.EncodeToString([]byte("1234567")) + "\n",
		"its name, another key":       foreign + lines,
		"another order":               strings.Join(reversed, ""),
		"repeated":                    lines + lines,
		"a bad one after the good":    lines + spoilt(t, own[0]),
		"unused bits of the base64":   unusedBits(t, own[0]) + strings.Join(own[1:], ""),
		"unused bits, and all others": foreign + unusedBits(t, own[0]) + strings.Join(own[1:], "") + lines,
	} {
		got, err := p.Essence([]byte(text + "\n\n" + variant))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, want)
		}
	}
	// What decides about it is in it: these are other checkpoints.
	for name, variant := range map[string]string{
		"a bad signature": spoilt(t, own[0]) + strings.Join(own[1:], ""),
		"one less":        own[0],
	} {
		got, err := p.Essence([]byte(text + "\n\n" + variant))
		if err != nil || bytes.Equal(got, want) {
			t.Errorf("%s: %v, is taken for the honest one", name, err)
		}
	}
	for name, bad := range map[string]string{
		"no signature": text + "\n", "only those of others": text + "\n\n" + foreign, "a broken line": text + "\n\n" + lines + "junk\n", "no text": "", "too large": text + "\n\n" + strings.Repeat(foreign, 4000),
	} {
		if got, err := p.Essence([]byte(bad)); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// spoilt is a signature line with one bit of the signature flipped.
func spoilt(t *testing.T, line string) string {
	t.Helper()
	head, sig := signatureOf(t, line)
	sig[len(sig)-1] ^= 1
	return head + " " + base64.StdEncoding.EncodeToString(sig) + "\n"
}

func signatureOf(t *testing.T, line string) (head string, sig []byte) {
	t.Helper()
	line = strings.TrimSuffix(line, "\n")
	i := strings.LastIndexByte(line, ' ')
	sig, err := base64.StdEncoding.DecodeString(line[i+1:])
	if err != nil {
		t.Fatal(err)
	}
	return line[:i], sig
}

// unusedBits writes the same signature in another way: the last digit before
// the padding has bits that stand for nothing.
func unusedBits(t *testing.T, line string) string {
	t.Helper()
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	at := strings.IndexByte(line, '=') - 1
	if at < 0 {
		t.Fatalf("no padding in %q", line)
	}
	again := line[:at] + string(digits[strings.IndexByte(digits, line[at])+1]) + line[at+1:]
	if _, one := signatureOf(t, line); true {
		if _, two := signatureOf(t, again); !bytes.Equal(one, two) || line == again {
			t.Fatalf("%q is not another way to write %q", again, line)
		}
	}
	return again
}
