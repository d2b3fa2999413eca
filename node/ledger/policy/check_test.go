package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

const origin = "example.com/log"

var now = time.Unix(1_800_000_000, 0).UTC()

// parties are a log, and cosigners by name.
type parties struct {
	t      testing.TB
	log    note.Signer
	vkey   string
	signer map[string]*cosign.Signer
}

func newParties(t testing.TB, names ...string) *parties {
	t.Helper()
	p := &parties{t: t, signer: map[string]*cosign.Signer{}}
	p.log, p.vkey = newLog(t)
	for _, name := range names {
		alg := cosign.Ed25519
		if strings.HasSuffix(name, "-pq") {
			alg = cosign.MLDSA44
		}
		s, err := cosign.Generate(alg, "example.com/"+strings.TrimSuffix(name, "-pq"))
		if err != nil {
			t.Fatal(err)
		}
		p.signer[name] = s
	}
	return p
}

func newLog(t testing.TB) (note.Signer, string) {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := ledger.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return signer, vkey
}

// policy puts keys into a text: {name} is a cosigner's, {log} the log's.
func (p *parties) policy(text string) *Policy {
	p.t.Helper()
	text = strings.ReplaceAll(text, "{log}", p.vkey)
	for name, s := range p.signer {
		text = strings.ReplaceAll(text, "{"+name+"}", s.Key().String())
	}
	q, err := Parse([]byte(text))
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

const body = origin + "\n12\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

// signed is a checkpoint with these cosignatures.
func (p *parties) signed(text string, cosigners ...string) []byte {
	p.t.Helper()
	out, err := note.Sign(&note.Note{Text: text}, p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, name := range cosigners {
		line, err := p.signer[name].Cosign(text, now)
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, line...)
	}
	return out
}

func TestCheck(t *testing.T) {
	p := newParties(t, "a", "a-pq", "b", "b-pq", "c", "c-pq", "x", "y", "stranger")
	const text = `log {log}
witness a/1 {a}
witness a/2 {a-pq}
group a any a/1 a/2
witness b/1 {b}
witness b/2 {b-pq}
group b any b/1 b/2
witness c/1 {c}
witness c/2 {c-pq}
group c any c/1 c/2
group durability 2 a b c
witness x {x}
witness y {y}
group out all x y
group both all durability out
quorum both
`
	q := p.policy(text)
	broken := func(signed []byte, name string) []byte {
		line := cosign.Line{Key: p.signer[name].Key(), Sig: make([]byte, 72)}.String()
		return append(signed, line...)
	}
	other := strings.Replace(body, origin, "example.com/other", 1)
	for _, c := range []struct {
		name    string
		policy  *Policy
		signed  []byte
		missing string
		counted string
		numbers string
		ignored string
	}{
		{"everybody", q, p.signed(body, "a", "a-pq", "b", "b-pq", "c-pq", "x", "y"), "", "a/1 a/2 b/1 b/2 c/2 x y", "durable 3/3, independent administrations 1", ""},
		{"just enough", q, p.signed(body, "x", "c", "y", "a-pq"), "", "a/2 c/1 x y", "durable 2/3, independent administrations 1", ""},
		{"a member with both keys counts once", q, p.signed(body, "a", "a-pq", "x", "y"),
			"cosignatures are missing: both (has 1 of the 2 it needs, lacks durability (has 1 of the 2 it needs, lacks b, c))", "a/1 a/2 x y", "durable 1/3, independent administrations 0", ""},
		{"nobody outside", q, p.signed(body, "a", "b", "c", "x"), "cosignatures are missing: both (has 1 of the 2 it needs, lacks out (has 1 of the 2 it needs, lacks y))", "a/1 b/1 c/1 x", "durable 3/3, independent administrations 0", ""},
		{"a stranger", p.policy("log {log}\nwitness x {x}\nquorum x\n"), p.signed(body, "stranger", "y"), "cosignatures are missing: x", "", "durable 0/0, independent administrations 0", ""},
		{"a broken line of one that signed", q, broken(p.signed(body, "x", "c", "y", "a-pq"), "x"), "", "a/2 c/1 x y", "durable 2/3, independent administrations 1", ""},
		{"a broken line of one that did not sign", q, broken(p.signed(body, "x", "c", "y", "a-pq"), "b"), "", "a/2 c/1 x y", "durable 2/3, independent administrations 1", "example.com/b"},
		{"another log", q, p.signed(other, "x", "c", "y", "a"), `the log's signature is missing: no log of the policy with the origin "example.com/other" signed it`, "a/1 c/1 x y", "durable 2/3, independent administrations 0", ""},
		{"no quorum", p.policy("log {log}\nquorum none\n"), p.signed(body), "", "", "durable 0/0, independent administrations 0", ""},
		{"members that the quorum does not ask for", p.policy("log {log}\nwitness a {a}\ngroup durability any a\nwitness x {x}\nquorum x\n"), p.signed(body, "a", "x"), "", "x", "durable 1/1, independent administrations 1", ""},
		{"a single member", p.policy("log {log}\nwitness durability {a}\nquorum durability\n"), p.signed(body, "a"), "", "durability", "durable 1/1, independent administrations 0", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := c.policy.Check(c.signed)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, w := range v.Counted {
				names = append(names, w.Name)
				if !w.Time.Equal(now) {
					t.Errorf("%s cosigned at %s, want %s", w.Name, w.Time, now)
				}
			}
			got := []string{v.Missing, strings.Join(names, " "), v.String(), strings.Join(v.Ignored, " ")}
			if diff := cmp.Diff([]string{c.missing, c.counted, c.numbers, c.ignored}, got); diff != "" {
				t.Error(diff)
			}
			if v.Satisfied != (c.missing == "") || v.Checkpoint.N != 12 {
				t.Errorf("satisfied: %t, %d blocks", v.Satisfied, v.Checkpoint.N)
			}
		})
	}
	if _, err := p.policy("quorum none\n").Check(p.signed(body)); err == nil || !strings.Contains(err.Error(), "no log line") {
		t.Errorf("a policy without logs: %v", err)
	}
	for name, signed := range map[string][]byte{"no note": []byte(body), "no checkpoint": p.signedText("hello\n")} {
		if _, err := q.Check(signed); err == nil {
			t.Errorf("%s is judged", name)
		}
	}
}

// verifier is the log as the ledger knows it.
func (p *parties) verifier() *ledger.Verifier {
	p.t.Helper()
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

func (p *parties) signedText(text string) []byte {
	p.t.Helper()
	out, err := note.Sign(&note.Note{Text: text}, p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// A ledger whose key was handed over is judged by who may sign it now, whatever log the policy names.
func TestLogKeysFollowTheLedger(t *testing.T) {
	p := newParties(t, "x")
	old := p.vkey
	first := p.signed(body, "x")
	q := p.policy("log {log}\nwitness x {x}\nquorum x\n")
	p.log, p.vkey = newLog(t)
	second := p.signed(body, "x")
	newest := p.verifier()
	if v, err := q.CheckOf(newest, second); err != nil || !v.Satisfied {
		t.Errorf("the new key alone: %+v, %v", v, err)
	}
	if v, err := q.CheckOf(newest, first); err != nil || v.Satisfied || v.Missing != "the log's signature is missing: no trusted key signed it" {
		t.Errorf("the old key, which the policy lists: %+v, %v", v, err)
	}
	if v, err := q.Check(second); err != nil || v.Satisfied {
		t.Errorf("by the text alone the new key is unknown: %+v, %v", v, err)
	}
	both := p.policy("log {log}\nlog " + old + "\nwitness x {x}\nquorum x\n")
	for _, signed := range [][]byte{first, second} {
		if v, err := both.Check(signed); err != nil || !v.Satisfied {
			t.Errorf("with both log lines: %+v, %v", v, err)
		}
	}
	if reasons := Weaker(Stated{q, 1}, Stated{both, 2}); reasons != nil {
		t.Errorf("a second log line is called weaker: %v", reasons)
	}
	_, foreign := newLog(t)
	for _, c := range []struct {
		name  string
		p     *Policy
		vkeys []string
		want  bool
	}{
		{"listed", q, []string{old}, true},
		{"handed over from a listed one", q, []string{old, p.vkey}, true},
		{"another ledger", q, []string{foreign}, false},
		{"no log line", p.policy("quorum none\n"), []string{foreign}, true},
	} {
		if got := c.p.IsFor(c.vkeys); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// The log's own key, with its time, is no witness of the log, also where the policy does not know the log.
func TestLogIsNoWitnessOfItself(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ledger.ReadSigningKeys(skey)
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: body}, keys[0].Signer, keys[0].Clock)
	if err != nil {
		t.Fatal(err)
	}
	clock, err := log.Verifier(origin, keys[0].Clock.KeyHash())
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse(fmt.Appendf(nil, "witness own %s\nquorum own\n", clock))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := q.CheckOf(log, signed); err != nil || v.Satisfied || v.Missing != "cosignatures are missing: own" {
		t.Errorf("%+v, %v", v, err)
	}
}

// Of more lines than every verifier accepts, those that satisfy the policy are kept.
func TestKeep(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("w%02d", i))
	}
	p := newParties(t, append(names, "last", "stranger")...)
	text := "log {log}\n"
	for _, name := range names {
		text += fmt.Sprintf("witness %s {%[1]s}\n", name)
	}
	text += "witness last {last}\ngroup some 8 " + strings.Join(names, " ") + "\ngroup both all some last\nquorum both\n"
	q, log := p.policy(text), p.verifier()
	kept, err := q.Keep(log, p.signed(body, append(append([]string{"stranger"}, names...), "last")...))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(kept), "— "); n != cosign.MaxSignatures || strings.Contains(string(kept), "stranger") {
		t.Errorf("%d lines are kept:\n%s", n, kept)
	}
	if v, err := q.CheckOf(log, kept); err != nil || !v.Satisfied {
		t.Errorf("what is kept does not satisfy the policy: %+v, %v", v, err)
	}
	if again, err := q.Keep(log, kept); err != nil || string(again) != string(kept) {
		t.Errorf("what is kept is kept otherwise the second time: %v", err)
	}
	few, err := q.Keep(log, p.signed(body, "w03", "stranger", "last"))
	if err != nil || string(few) != string(p.signed(body, "w03", "last")) {
		t.Errorf("too few for the policy: %v\n%s", err, few)
	}
	if kept, err := q.Keep(log, []byte(body)); err == nil {
		t.Errorf("no note is kept as %q", kept)
	}
}
