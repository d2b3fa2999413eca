package policy

import (
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

func TestWeaker(t *testing.T) {
	const members = "witness a $W00\nwitness b $W01\nwitness c $W02\nwitness x $W10\n"
	twoOfThree := parse(t, members+"group g 2 a b c\nquorum g\n")
	for _, c := range []struct {
		name       string
		next       string
		generation int64
		want       string // of the reasons, in order
	}{
		{"the same, stated again", members + "group g 2 a b c\nquorum g\n", 2, ""},
		{"the same, of the same generation", members + "# a comment\ngroup g 2 c b a\nquorum g\n", 1, ""},
		{"stronger", members + "group g all a b c\nquorum g\n", 2, ""},
		{"an older generation", members + "group g 2 a b c\nquorum g\n", 0, "generation 0 is older than 1"},
		{"two policies of one generation", members + "group g all a b c\nquorum g\n", 1, "generation 1 names two policies"},
		{"none", "quorum none\n", 2, "asks for no cosignature|two quorums need not share any cosigner|independent administrations are 0 rather than 1"},
		{"one of three", members + "group g any a b c\nquorum g\n", 2, "two quorums need not share any cosigner|independent administrations are 0 rather than 1"},
		{"two of two, which needs all", members + "group g all a b\nquorum g\n", 2, ""},
		{"one's own", members + "group durability 2 a b c\nquorum durability\n", 2, "independent administrations are 0 rather than 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Weaker(Stated{twoOfThree, 1}, Stated{parse(t, c.next), c.generation})
			want := strings.Split(c.want, "|")
			if c.want == "" {
				want = nil
			}
			if len(got) != len(want) {
				t.Fatalf("%q, want %q", got, want)
			}
			for i := range want {
				if !strings.Contains(got[i], want[i]) {
					t.Errorf("%q, want %q", got[i], want[i])
				}
			}
		})
	}
	all := parse(t, members+"group g all a b c\nquorum g\n")
	if got := Weaker(Stated{all, 1}, Stated{twoOfThree, 2}); len(got) != 1 || got[0] != "two quorums survive 0 bad cosigners rather than 2" {
		t.Errorf("from all to two of three: %q", got)
	}
	if got := Weaker(Stated{parse(t, "quorum none\n"), 1}, Stated{parse(t, "quorum none\n"), 2}); got != nil {
		t.Errorf("from none to none: %v", got)
	}
}

// The operator's own policy: each member counts once, by whichever of its keys.
func TestForMembers(t *testing.T) {
	p := newParties(t, "a", "a-pq", "b", "b-pq", "c", "c-pq")
	member := func(name string) Member {
		return Member{"mirror-" + name, []*cosign.Key{p.signer[name].Key(), p.signer[name+"-pq"].Key()}}
	}
	q, err := ForMembers(2, []Member{member("a"), member("b"), member("c")})
	if err != nil {
		t.Fatal(err)
	}
	want := p.policy(`witness mirror-a/ed25519 {a}
witness mirror-a/ml-dsa-44 {a-pq}
witness mirror-b/ed25519 {b}
witness mirror-b/ml-dsa-44 {b-pq}
witness mirror-c/ed25519 {c}
witness mirror-c/ml-dsa-44 {c-pq}
group mirror-a 1 mirror-a/ed25519 mirror-a/ml-dsa-44
group mirror-b 1 mirror-b/ed25519 mirror-b/ml-dsa-44
group mirror-c 1 mirror-c/ed25519 mirror-c/ml-dsa-44
group durability 2 mirror-a mirror-b mirror-c
quorum durability
`)
	if q.String() != want.String() || q.Survives() != 0 || q.Independent() != 0 || q.Doubled() != nil {
		t.Errorf("f %d, independent %d, doubled %v:\n%s", q.Survives(), q.Independent(), q.Doubled(), q)
	}
	log := p.verifier()
	for _, c := range []struct {
		cosigners string
		satisfied bool
		durable   int
	}{
		{"a a-pq", false, 1}, {"a b", true, 2}, {"a-pq b", true, 2}, {"a-pq b-pq c-pq", true, 3}, {"c", false, 1},
	} {
		v, err := q.CheckOf(log, p.signed(body, strings.Fields(c.cosigners)...))
		if err != nil || v.Satisfied != c.satisfied || v.Durable != c.durable || v.Members != 3 {
			t.Errorf("%s: %+v, %v", c.cosigners, v, err)
		}
	}
	for name, bad := range map[string]struct {
		need    int
		members []Member
		want    string
	}{
		"more than there are":    {3, []Member{member("a"), member("b")}, `"3" of 2 members`},
		"none of them":           {0, []Member{member("a")}, `"0" of 1 members`},
		"no members":             {1, nil, "want 'group NAME"},
		"no key":                 {1, []Member{{"m", nil}}, "the member m has no key"},
		"one cosigner twice":     {1, []Member{{"m", member("a").Keys[:1]}, {"n", member("a").Keys[1:]}}, "the members m and n have keys of one name"},
		"keys of two cosigners":  {1, []Member{{"m", []*cosign.Key{p.signer["a"].Key(), p.signer["b"].Key()}}}, "has keys of two names"},
		"a name with a space":    {1, []Member{{"m n", member("a").Keys}}, "line 1"},
		"a name twice":           {1, []Member{{"m", member("a").Keys}, {"m", member("b").Keys}}, "is defined before"},
		"a member by that name":  {1, []Member{{Durability, member("a").Keys}}, "defined"},
		"a log's key as witness": {1, []Member{{"m", []*cosign.Key{key(t, cosign.Plain, "example.com/log", 1)}}}, "the key of a log"},
	} {
		if q, err := ForMembers(bad.need, bad.members); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, %v, want %q", name, q, err, bad.want)
		}
	}
}
