package policy

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// key is a key without a secret half, a different one for each n.
func key(t testing.TB, alg cosign.Algorithm, name string, n int) *cosign.Key {
	t.Helper()
	public := sha256.Sum256([]byte(fmt.Sprint(n)))
	k, err := cosign.NewKey(name, alg, public[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// expand puts keys into the texts of tests: $L00 is the key of a log, $W00 of a witness. $T00 has the public key
// of $L00, and $V00 that of $W00.
func expand(t testing.TB, text string) string {
	t.Helper()
	var pairs []string
	for n := range 40 {
		pairs = append(pairs,
			fmt.Sprintf("$L%02d", n), key(t, cosign.Plain, "example.com/log", 100+n).String(),
			fmt.Sprintf("$T%02d", n), key(t, cosign.Ed25519, "example.com/twin", 100+n).String(),
			fmt.Sprintf("$W%02d", n), key(t, cosign.Ed25519, fmt.Sprint("example.com/w", n), n).String(),
			fmt.Sprintf("$V%02d", n), key(t, cosign.Ed25519, fmt.Sprint("example.com/v", n), n).String())
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(expand(t, text)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// example is the one of the specification, with keys.
const example = `log $L00

witness X1 $W01
witness X2 $W02
witness X3 $W03
group X-witnesses 2 X1 X2 X3

witness Y1 $W04
witness Y2 $W05
witness Y3 $W06
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
`

func TestParse(t *testing.T) {
	for name, text := range map[string]string{
		"the example":              example,
		"nothing but a quorum":     "quorum none\n",
		"one witness":              "witness a $W00\nquorum a\n",
		"white space and comments": "\n \t\n  # witness\n#\n\twitness \t a $W00 https://example.com/#x \nquorum  a\t\n",
		"URLs":                     "log $L00 https://log.example\nwitness a $W00 https://a.example/\nquorum a\n",
		"a number sign in a name":  "witness a#b $W00\nquorum a#b\n",
		"words as names":           "witness any $W00\nwitness all $W01\ngroup quorum any any all\nquorum quorum\n",
		"octets in names":          "witness \xff\xfe $W00\nwitness K $W01\nwitness \u212a $W02\ngroup g all \xff\xfe K \u212a\nquorum g\n",
		"a witness beside a group": "witness a $W00\nwitness b $W01\ngroup g any a\nquorum b\n",
		"two logs":                 "log $L00\nlog $L01\nquorum none\n",
		"a log that cosigns":       "log $T00\nquorum none\n",
		"no-break spaces":          "witness a\u00a0b $W00\nquorum a\u00a0b\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, text)
			again, err := Parse([]byte(p.String()))
			if err != nil || again.String() != p.String() || again.Hash() != p.Hash() {
				t.Errorf("the canonical form is read as %v, %v:\n%s", again, err, p)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	many := func(n int, format string) string {
		var out strings.Builder
		for i := range n {
			fmt.Fprintf(&out, format, i)
		}
		return out.String()
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "no quorum"},
		{"no quorum", "witness a $W00\n", "no quorum"},
		{"two quorums", "quorum none\nquorum none\n", "line 2: there is a quorum line before"},
		{"a line that is cut off", "witness a $W00\nquorum none", "line 2: it does not end with a newline"},
		{"a carriage return", "quorum none\r\n", "line 1: byte 12 is the control character 0x0d"},
		{"DEL", "# \x7f\nquorum none\n", "line 1: byte 3"},
		{"another word", "\n#\nWitness a $W00\nquorum none\n", `line 3: it begins with "Witness"`},
		{"a log without key", "log\nquorum none\n", "line 1: want 'log VKEY'"},
		{"a comment after a log", "log $L00 url # mine\nquorum none\n", "line 1: want 'log VKEY'"},
		{"a broken key", "log example.com/log+00000000+AAAA\nquorum none\n", "line 1: key of example.com/log"},
		{"a log twice", "log $L00\nlog $L00\nquorum none\n", "line 2: the key of example.com/log+"},
		{"a log twice under other names", "log $L00\nlog $T00\nquorum none\n", "line 2: the key of example.com/twin+"},
		{"a witness twice", "witness a $W00\nwitness b $W00\nquorum a\n", `line 2: its key is that of the witness "a"`},
		{"a witness twice under other names", "witness a $W00\nwitness b $V00\nquorum a\n", `line 2: its key is that of the witness "a"`},
		{"a log that is its own witness", "witness a $T00\nlog $L00\nquorum a\n", `the witness "a" has the key of the log`},
		{"a witness with a log's key", "witness a $L00\nquorum a\n", "line 1: example.com/log+"},
		{"a name twice", "witness a $W00\nwitness a $W01\nquorum a\n", `line 2: "a" is defined before`},
		{"a group with a witness's name", "witness a $W00\ngroup a any a\nquorum a\n", `line 2: "a" is defined before`},
		{"none as a name", "witness none $W00\nquorum none\n", "line 1: the name 'none' is taken"},
		{"none as a member", "group g any none\nquorum g\n", "line 1: 'none' can only be the quorum"},
		{"an unknown member", "witness a $W00\ngroup g any a b\nquorum g\n", `line 2: there is no witness or group "b"`},
		{"a member that comes later", "group g any a\nwitness a $W00\nquorum g\n", `line 1: "a" is defined in line 2`},
		{"a cycle", "group g any h\ngroup h any g\nquorum g\n", `line 1: "h" is defined in line 2`},
		{"a group in itself", "group g any g\nquorum g\n", `line 1: "g" is defined in line 1`},
		{"a member of two groups", "witness a $W00\ngroup g any a\ngroup h any a\nquorum g\n", `line 3: "a" is a member of the group "g" before`},
		{"a member twice", "witness a $W00\ngroup g any a a\nquorum g\n", `line 2: "a" is a member of the group "g" before`},
		{"a group without members", "group g any\nquorum g\n", "line 1: want 'group NAME"},
		{"zero of one", "witness a $W00\ngroup g 0 a\nquorum g\n", `line 2: "0" of 1 members`},
		{"two of one", "witness a $W00\ngroup g 2 a\nquorum g\n", `line 2: "2" of 1 members: want all, any, or a number from 1 to 1`},
		{"a leading zero", "witness a $W00\ngroup g 01 a\nquorum g\n", "from 1 to 1"},
		{"a sign", "witness a $W00\ngroup g +1 a\nquorum g\n", "from 1 to 1"},
		{"hexadecimal", "witness a $W00\ngroup g 0x1 a\nquorum g\n", "from 1 to 1"},
		{"an unknown quorum", "quorum a\n", `line 1: there is no witness or group "a"`},
		{"a quorum that comes later", "quorum a\nwitness a $W00\n", `line 1: "a" is defined in line 2`},
		{"a quorum of two", "witness a $W00\nwitness b $W01\nquorum a b\n", "line 3: want 'quorum NAME'"},
		{"a quorum that no checkpoint can carry", many(16, "witness a%02[1]d $W%02[1]d\n") + "group g all" + many(16, " a%02d") + "\nquorum g\n", "it takes 16 cosignatures, and a checkpoint carries 15"},
		{"a long name", "witness " + strings.Repeat("a", 256) + " $W00\nquorum none\n", "line 1: a name of 256 bytes"},
		{"a long URL", "witness a $W00 " + strings.Repeat("a", 1025) + "\nquorum none\n", "line 1: a URL of 1025 bytes"},
		{"too many logs", many(33, "log $L%02d\n") + "quorum none\n", "line 33: more than 32 logs"},
		{"too long", strings.Repeat("#\n", MaxText/2) + "quorum none\n", "at most 262144"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if p, err := Parse([]byte(expand(t, c.text))); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, %v, want %q", p, err, c.want)
			}
		})
	}
}

// As many as the specification recommends fit, also with the longest keys.
func TestLargePolicies(t *testing.T) {
	var text strings.Builder
	for n := range 64 {
		s, err := cosign.Generate(cosign.MLDSA44, fmt.Sprint(strings.Repeat("n", 250), n))
		if err != nil {
			t.Fatal(err)
		}
		if n < 32 {
			l, err := cosign.Generate(cosign.MLDSA44, fmt.Sprint(strings.Repeat("l", 250), n))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "log %s https://example.com/%d\n", l.Key(), n)
		}
		fmt.Fprintf(&text, "witness w%d %s https://example.com/%[1]d\ngroup g%[1]d any w%[1]d\n", n, s.Key())
	}
	text.WriteString("quorum g63\n")
	if _, err := Parse([]byte(text.String())); err != nil {
		t.Fatal(err)
	}
	more := strings.TrimSuffix(text.String(), "quorum g63\n")
	s, err := cosign.Generate(cosign.Ed25519, "one/more")
	if err != nil {
		t.Fatal(err)
	}
	for add, want := range map[string]string{
		"witness more " + s.Key().String() + "\n": "more than 64 witnesses",
		"group more any g0\n":                     "more than 64 groups",
	} {
		if _, err := Parse([]byte(more + add + "quorum g63\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The hash is of what a policy decides.
func TestHash(t *testing.T) {
	p := parse(t, example)
	for name, text := range map[string]string{
		"comments, order, numbers and URLs": `witness Y3 $W06 https://y3.example
# the same
witness X1 $W01
  witness X3	$W03
witness X2 $W02
witness Y1 $W04
witness Y2 $W05
group Y-witnesses 1 Y3 Y2 Y1
group X-witnesses 2 X3 X1 X2
log $L00 https://log.example
group X-and-Y 2 Y-witnesses X-witnesses
quorum X-and-Y
`,
	} {
		if q := parse(t, text); q.Hash() != p.Hash() {
			t.Errorf("%s: another hash:\n%s\n%s", name, p, q)
		}
	}
	seen := map[string]string{p.Hash(): "the example"}
	for name, change := range map[string][2]string{
		"another threshold": {"2 X1", "3 X1"},
		"another key":       {"$W01", "$W07"},
		"another log":       {"$L00", "$L01"},
		"no log":            {"log $L00", ""},
		"another quorum":    {"quorum X-and-Y", "quorum X-witnesses"},
		"none":              {"quorum X-and-Y", "quorum none"},
	} {
		q := parse(t, strings.Replace(example, change[0], change[1], 1))
		if other, ok := seen[q.Hash()]; ok {
			t.Errorf("%s has the hash of %s", name, other)
		}
		seen[q.Hash()] = name
	}
	// Whoever stored the hash of a policy must find it again with a later version.
	if got := parse(t, "quorum none\n").Hash(); got != "sha256:08cfcaed9576dbb952e73382aecc0adb0a0d5d6d5cb1250c65bd399c35c2f324" {
		t.Errorf("the hash of 'quorum none' is %s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(expand(f, example)))
	f.Add([]byte("quorum none\n"))
	f.Add([]byte(expand(f, "witness a $W00 url\ngroup g 1 a\nquorum g\n#x\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse([]byte(p.String()))
		if err != nil || again.Hash() != p.Hash() || again.String() != p.String() || again.Survives() != p.Survives() || again.Independent() != p.Independent() {
			t.Errorf("%q is printed as %q: %v", text, p, err)
		}
	})
}
