package policy

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"filippo.io/torchwood"
	formats "github.com/transparency-dev/formats/witness"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Policies made at random mean the same to the two other implementations, for all sets of cosigners.
func TestOthersAgree(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	p := newParties(t, names...)
	lines := map[string]string{}
	for _, name := range names {
		line, err := p.signer[name].Cosign(body, now)
		if err != nil {
			t.Fatal(err)
		}
		lines[name] = line
	}
	bare := string(p.signedText(body))
	random := rand.New(rand.NewPCG(1, 2))
	yes, no := 0, 0
	for range 40 {
		text := p.random(random, names)
		ours, err := Parse([]byte(text))
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		group, err := formats.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatalf("formats: %v:\n%s", err, text)
		}
		wood, err := torchwood.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatalf("torchwood: %v:\n%s", err, text)
		}
		for set := range 1 << len(names) {
			signed := bare
			for i, name := range names {
				if set>>i&1 == 1 {
					signed += lines[name]
				}
			}
			v, err := ours.Check([]byte(signed))
			if err != nil {
				t.Fatal(err)
			}
			_, _, refused := torchwood.VerifyCheckpoint([]byte(signed), wood)
			if v.Satisfied != group.Satisfied([]byte(signed)) || v.Satisfied != (refused == nil) {
				t.Errorf("set %05b satisfies: %t, formats %t, torchwood %v:\n%s", set, v.Satisfied, group.Satisfied([]byte(signed)), refused, text)
			}
			if v.Satisfied {
				yes++
			} else {
				no++
			}
		}
	}
	if yes < 100 || no < 100 {
		t.Errorf("%d satisfied, %d not: too few to compare", yes, no)
	}
}

// random is a policy that nests the witnesses in groups.
func (p *parties) random(r *rand.Rand, names []string) string {
	text := "log " + p.vkey + "\n"
	for _, name := range names {
		u := url.URL{Scheme: "https", Host: name + ".example"}
		text += fmt.Sprintf("witness %s %s %s\n", name, p.signer[name].Key(), u.String())
	}
	free := slices.Clone(names)
	for g := 0; len(free) > 1 || g == 0; g++ {
		r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
		n := 1 + r.IntN(len(free))
		if g > 6 {
			n = len(free)
		}
		need := []string{"any", "all", fmt.Sprint(1 + r.IntN(n))}[r.IntN(3)]
		name := fmt.Sprint("g", g)
		text += fmt.Sprintf("group %s %s %s\n", name, need, strings.Join(free[:n], " "))
		free = append(free[n:], name)
	}
	return text + "quorum " + free[0] + "\n"
}

// A checkpoint as three members make it, each with both of its keys.
func BenchmarkCheck(b *testing.B) {
	p := newParties(b, "a", "a-pq", "b", "b-pq", "c", "c-pq")
	var members []Member
	for _, name := range []string{"a", "b", "c"} {
		members = append(members, Member{name, []*cosign.Key{p.signer[name].Key(), p.signer[name+"-pq"].Key()}})
	}
	q, err := ForMembers(2, members)
	if err != nil {
		b.Fatal(err)
	}
	signed, log := p.signed(body, "a", "a-pq", "b", "b-pq", "c", "c-pq"), p.verifier()
	for b.Loop() {
		if v, err := q.CheckOf(log, signed); err != nil || !v.Satisfied {
			b.Fatal(v, err)
		}
	}
	b.ReportMetric(float64(len(signed)), "bytes")
}
