package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Durability is the name of the group of the publisher's own members. They have the publisher's administrator,
// so they keep its ledger, and prove nothing against the publisher itself.
const Durability = "durability"

// Policy is a policy that was read and is valid. It does not change.
type Policy struct {
	logs   []logKey
	parts  []*part        // witnesses and groups as they were defined
	quorum *part          // nil for "none"
	uses   map[string]int // names of keys, and how many keys of the quorum have each
}

type logKey struct {
	key *cosign.Key
	url string
}

// part is a witness or a group.
type part struct {
	name string
	in   string // the group that lists it; empty if none does

	key *cosign.Key // of a witness
	url string

	need    int // of a group: how many of its members must have cosigned
	members []*part
}

func (p *part) isWitness() bool { return p.key != nil }

// parts are the members of a group, or the one witness that it is.
func (p *part) parts() []*part {
	if p.isWitness() {
		return []*part{p}
	}
	return p.members
}

// witnesses are those of a part, itself or those below it.
func (p *part) witnesses() []*part {
	if p == nil {
		return nil
	}
	if p.isWitness() {
		return []*part{p}
	}
	var out []*part
	for _, m := range p.members {
		out = append(out, m.witnesses()...)
	}
	return out
}

// countUses fills uses.
func (p *Policy) countUses() {
	p.uses = map[string]int{}
	for _, w := range p.quorum.witnesses() {
		p.uses[w.key.Name()]++
	}
}

// height is how many groups are in each other below a part.
func (p *part) height() (h int) {
	for _, m := range p.members {
		h = max(h, 1+m.height())
	}
	return h
}

// fewest is how many cosignatures are enough.
func (p *part) fewest() (n int) {
	if p.isWitness() {
		return 1
	}
	var each []int
	for _, m := range p.members {
		each = append(each, m.fewest())
	}
	slices.Sort(each)
	for _, e := range each[:p.need] {
		n += e
	}
	return n
}

// None tells whether the policy asks for no cosignature at all.
func (p *Policy) None() bool { return p.quorum == nil }

// IsFor tells whether the policy may be applied to a ledger with these keys, the pinned one and those that
// follow on it: it has no log lines, or one of these keys is in them.
func (p *Policy) IsFor(vkeys []string) bool {
	return len(p.logs) == 0 || slices.ContainsFunc(p.logs, func(l logKey) bool { return slices.Contains(vkeys, l.key.String()) })
}

// Named is a key with what the policy calls it.
type Named struct {
	Name string // of a witness; "log" for a log
	Key  *cosign.Key
}

// Keys are those of the logs and of all witnesses.
func (p *Policy) Keys() (out []Named) {
	for _, l := range p.logs {
		out = append(out, Named{"log", l.key})
	}
	for _, m := range p.parts {
		if m.isWitness() {
			out = append(out, Named{m.name, m.key})
		}
	}
	return out
}

// String is the policy in canonical form, with its URLs: without comments, in a fixed order, with numbers for
// "any" and "all". It is a policy itself.
func (p *Policy) String() string { return p.print(true) }

// Hash names what the policy decides: it is the SHA-256 of its canonical form without URLs, which have no part
// in it. Texts that differ in comments, white space, order or URLs have the same hash.
func (p *Policy) Hash() string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(p.print(false))))
}

func (p *Policy) print(urls bool) string {
	var out strings.Builder
	line := func(url string, words ...string) {
		if urls && url != "" {
			words = append(words, url)
		}
		out.WriteString(strings.Join(words, " ") + "\n")
	}
	logs := slices.SortedFunc(slices.Values(p.logs), func(a, b logKey) int { return cmp.Compare(a.key.String(), b.key.String()) })
	for _, l := range logs {
		line(l.url, "log", l.key.String())
	}
	// Groups stand after what they are made of, as they must.
	parts := slices.SortedFunc(slices.Values(p.parts), func(a, b *part) int {
		return cmp.Or(cmp.Compare(a.height(), b.height()), cmp.Compare(a.name, b.name))
	})
	for _, m := range parts {
		if m.isWitness() {
			line(m.url, "witness", m.name, m.key.String())
			continue
		}
		line("", append([]string{"group", m.name, fmt.Sprint(m.need)}, sortedNames(m.members)...)...)
	}
	if p.quorum == nil {
		line("", "quorum", none)
	} else {
		line("", "quorum", p.quorum.name)
	}
	return out.String()
}

func sortedNames(parts []*part) (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}

// named is the part of a name; nil if there is none.
func (p *Policy) named(name string) *part {
	i := slices.IndexFunc(p.parts, func(m *part) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	return p.parts[i]
}
