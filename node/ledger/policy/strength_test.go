package policy

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// shapes are all trees with so many witnesses, with all thresholds; a group has at least two members.
func shapes(n int) (out []*part) {
	if n == 1 {
		return []*part{{}}
	}
	for _, members := range forests(n, 1, n-1) {
		for need := 1; need <= len(members); need++ {
			out = append(out, &part{need: need, members: members})
		}
	}
	return out
}

// forests are all lists of trees that have n witnesses together, each from least to most of them, in rising order.
func forests(n, least, most int) (out [][]*part) {
	if n == 0 {
		return [][]*part{nil}
	}
	for first := least; first <= min(n, most); first++ {
		for _, rest := range forests(n-first, first, most) {
			for _, tree := range shapes(first) {
				out = append(out, append([]*part{tree}, rest...))
			}
		}
	}
	return out
}

// build makes a policy of a tree: its witnesses have keys of the cosigners that owner names, and the group with
// the number own, if there is one, is that of the publisher.
func build(t testing.TB, shape *part, owner func(witness int) int, own int) *Policy {
	t.Helper()
	p := &Policy{}
	witnesses, groups := 0, 0
	var add func(s *part) *part
	add = func(s *part) *part {
		if len(s.members) == 0 {
			w := &part{name: fmt.Sprint("w", witnesses), key: key(t, cosign.Ed25519, fmt.Sprint("c", owner(witnesses)), witnesses)}
			witnesses++
			p.parts = append(p.parts, w)
			return w
		}
		g := &part{name: fmt.Sprint("g", groups), need: s.need}
		if groups == own {
			g.name = Durability
		}
		groups++
		for _, m := range s.members {
			g.members = append(g.members, add(m))
		}
		p.parts = append(p.parts, g)
		return g
	}
	p.quorum = add(shape)
	p.countUses()
	return p
}

// quorums are all sets of witnesses that satisfy a policy, as sets of bits.
func quorums(p *Policy) (out []int) {
	ws := p.quorum.witnesses()
	for set := range 1 << len(ws) {
		if p.quorum.satisfied(func(w *part) bool { return set>>slices.Index(ws, w)&1 == 1 }) {
			out = append(out, set)
		}
	}
	return out
}

// For all policies of up to five witnesses, some of which are keys of one cosigner: what is computed is what is
// found by looking at every two quorums.
func TestStrengthByBruteForce(t *testing.T) {
	policies, doubled := 0, 0
	for n := 1; n <= 5; n++ {
		for _, shape := range shapes(n) {
			for sharing := range 3 {
				owner := func(w int) int { return w }
				if sharing == 1 && n > 1 {
					owner = func(w int) int { return max(w, 1) } // the first two are one cosigner
				}
				if sharing == 2 && n > 3 {
					owner = func(w int) int { return w / 2 } // each two are one
				}
				for own := -1; own < 3; own++ {
					p := build(t, shape, owner, own)
					overlap, independent := bruteForce(p, owner)
					policies++
					if len(p.Doubled()) > 0 {
						doubled++
						if p.Survives() > overlap-1 || p.Independent() > independent {
							t.Errorf("f is %d, and really %d; independent %d, and really %d:\n%s", p.Survives(), overlap-1, p.Independent(), independent, p)
						}
						continue
					}
					if p.Survives() != overlap-1 {
						t.Errorf("f is %d, and really %d:\n%s", p.Survives(), overlap-1, p)
					}
					if p.Independent() != independent {
						t.Errorf("independent administrations are %d, and really %d:\n%s", p.Independent(), independent, p)
					}
				}
			}
		}
	}
	if policies < 1000 || doubled < 100 {
		t.Errorf("%d policies, %d with a cosigner in two places: that is too few to prove anything", policies, doubled)
	}
}

// bruteForce looks at each two quorums: the least number of cosigners that they share, and of administrations
// other than the publisher's of which they share a cosigner.
func bruteForce(p *Policy, owner func(int) int) (overlap, independent int) {
	ws := p.quorum.witnesses()
	var sets []int // of the cosigners in each quorum
	for _, q := range quorums(p) {
		set := 0
		for i := range ws {
			if q>>i&1 == 1 {
				set |= 1 << owner(i)
			}
		}
		sets = append(sets, set)
	}
	slices.Sort(sets)
	sets = slices.Compact(sets)
	administrations := map[string]int{} // and their cosigners
	for i, w := range ws {
		if !belongsTo(p, w, Durability) {
			administrations[administrationOf(p, w)] |= 1 << owner(i)
		}
	}
	overlap, independent = len(ws), len(ws)
	for _, a := range sets {
		for _, b := range sets {
			n := 0
			for _, cosigners := range administrations {
				if a&b&cosigners != 0 {
					n++
				}
			}
			overlap, independent = min(overlap, bits.OnesCount(uint(a&b))), min(independent, n)
		}
	}
	return overlap, independent
}

// belongsTo tells whether a key of the cosigner that has a witness is below a group.
func belongsTo(p *Policy, w *part, group string) bool {
	g := p.named(group)
	return g != nil && slices.ContainsFunc(g.witnesses(), func(o *part) bool { return o.key.Name() == w.key.Name() })
}

// administrationOf is the group around a witness's cosigner, if it is made of cosigners; else the cosigner.
func administrationOf(p *Policy, w *part) string {
	cosigner := func(m *part) bool {
		ws := m.witnesses()
		return !slices.ContainsFunc(ws, func(o *part) bool { return o.key.Name() != ws[0].key.Name() })
	}
	for _, g := range p.parts {
		if !g.isWitness() && slices.Contains(g.witnesses(), w) && !cosigner(g) && !slices.ContainsFunc(g.members, func(m *part) bool { return !cosigner(m) }) {
			return "group " + g.name
		}
	}
	return "cosigner " + w.key.Name()
}

// Policies that people write, and what they are worth.
func TestStrength(t *testing.T) {
	members := "witness a1 $W00\nwitness b1 $W01\nwitness c1 $W02\n"
	outside := "witness x $W10\nwitness y $W11\nwitness z $W12\n"
	for _, c := range []struct {
		name, text     string
		f, independent int
		doubled        []string
	}{
		{"none", "quorum none\n", -1, 0, nil},
		{"one witness", "witness a $W00\nquorum a\n", 0, 1, nil},
		{"one of two", members + "group g any a1 b1\nquorum g\n", -1, 0, nil},
		{"two of three", members + "group g 2 a1 b1 c1\nquorum g\n", 0, 1, nil},
		{"all of three", members + "group g all a1 b1 c1\nquorum g\n", 2, 1, nil},
		{"the example", example, 0, 1, nil},
		{"one's own members alone", members + "group durability 2 a1 b1 c1\nquorum durability\n", 0, 0, nil},
		{"one's own, and two of three outside", members + outside + "group durability 2 a1 b1 c1\ngroup out 2 x y z\ngroup both all durability out\nquorum both\n", 1, 1, nil},
		{"one's own, and any of three outside", members + outside + "group durability 2 a1 b1 c1\ngroup out any x y z\ngroup both all durability out\nquorum both\n", 0, 0, nil},
		{"one's own or outside", members + outside + "group durability all a1 b1 c1\ngroup out all x y z\ngroup either any durability out\nquorum either\n", -1, 0, nil},
		{"two administrations of three outside", members + outside + "group durability 2 a1 b1 c1\ngroup X any x\ngroup Y any y\ngroup Z any z\ngroup out 2 X Y Z\ngroup both all durability out\nquorum both\n", 1, 1, nil},
		{"two administrations, both", members + outside + "group durability 2 a1 b1 c1\ngroup X any x\ngroup Y any y\ngroup both all durability X Y\nquorum both\n", 2, 2, nil},
		{"two keys of one cosigner in a group", "witness a1 $W00\nwitness a2 $S00\nwitness b $W01\ngroup a any a1 a2\ngroup g all a b\nquorum g\n", 1, 1, nil},
		{"both keys are wanted", "witness a1 $W00\nwitness a2 $S00\ngroup a all a1 a2\nquorum a\n", 0, 1, nil},
		{"two keys of one cosigner count twice", "witness a1 $W00\nwitness a2 $S00\nwitness b $W01\ngroup g 2 a1 a2 b\nquorum g\n", -1, 0, []string{"example.com/w0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A second key of the first cosigner.
			text := strings.ReplaceAll(c.text, "$S00", key(t, cosign.Ed25519, "example.com/w0", 50).String())
			p := parse(t, text)
			if p.Survives() != c.f || p.Independent() != c.independent || !slices.Equal(p.Doubled(), c.doubled) {
				t.Errorf("f %d, independent %d, doubled %v, want %d, %d, %v", p.Survives(), p.Independent(), p.Doubled(), c.f, c.independent, c.doubled)
			}
		})
	}
}
