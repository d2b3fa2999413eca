package policy

import "slices"

// Survives is f: so many cosigners may be bad, and still any two quorums share an honest one, which cosigns one
// history. It is the least overlap of two quorums less one. At -1 two quorums need not share anybody: honest
// cosigners can then satisfy the policy for two histories.
//
// The keys with one name are one cosigner. It counts once if they stand together in a group of their own; where
// they stand apart, so that it may count twice, it is taken to be bad.
func (p *Policy) Survives() int {
	return p.overlap(p.quorum, func(*part) bool { return false }) - 1
}

// overlap is the least number of cosigners that two quorums of a part share, not counting those that skip names.
//
// Each name is in one place, so the parts of a group are chosen independently. Two quorums of k of n members
// have at least 2k-n members in common, and can have just so many, those of the least overlap; a member that
// only one of them needs adds nothing.
func (p *Policy) overlap(m *part, skip func(*part) bool) int {
	switch {
	case m == nil:
		return 0
	case p.isCosigner(m):
		if slices.ContainsFunc(m.witnesses(), skip) {
			return 0
		}
		return 1
	case m.isWitness():
		return 0 // of a cosigner that has keys elsewhere
	}
	return m.sumLeast(func(c *part) int { return p.overlap(c, skip) })
}

// sumLeast is the sum over the members that two quorums cannot avoid to share, of those with the least.
func (p *part) sumLeast(of func(*part) int) (sum int) {
	var each []int
	for _, m := range p.members {
		each = append(each, of(m))
	}
	slices.Sort(each)
	for _, n := range each[:max(0, 2*p.need-len(each))] {
		sum += n
	}
	return sum
}

// isCosigner tells whether a part has all keys of one cosigner in the quorum, and no others.
func (p *Policy) isCosigner(m *part) bool {
	ws := m.witnesses()
	name := ws[0].key.Name()
	for _, w := range ws {
		if w.key.Name() != name {
			return false
		}
	}
	return p.uses[name] == len(ws)
}

// Doubled are the names of cosigners whose keys stand apart in the quorum, so that one may count more than once.
func (p *Policy) Doubled() (names []string) {
	var look func(m *part)
	look = func(m *part) {
		switch {
		case p.isCosigner(m):
		case m.isWitness():
			names = append(names, m.key.Name())
		default:
			for _, c := range m.members {
				look(c)
			}
		}
	}
	if p.quorum != nil {
		look(p.quorum)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Independent is how many administrations other than the publisher's any two quorums share a cosigner of. Only
// from 1 on does the policy stop a publisher, whose own members obey it, from showing two histories.
//
// An administration is a group that is made of cosigners, or a cosigner outside of such a group. What is in the
// group "durability" is the publisher's.
func (p *Policy) Independent() int { return p.independent(p.quorum, p.own()) }

func (p *Policy) independent(m *part, own func(*part) bool) int {
	switch {
	case m == nil:
		return 0
	case p.isAdministration(m):
		return min(1, p.overlap(m, own))
	case m.isWitness():
		return 0
	}
	return m.sumLeast(func(c *part) int { return p.independent(c, own) })
}

func (p *Policy) isAdministration(m *part) bool {
	return p.isCosigner(m) || !m.isWitness() && !slices.ContainsFunc(m.members, func(c *part) bool { return !c.isWitness() && !p.isCosigner(c) })
}

// own tells of the witnesses that the publisher's administrator has.
func (p *Policy) own() func(*part) bool {
	var names []string
	if d := p.named(Durability); d != nil {
		for _, w := range d.witnesses() {
			names = append(names, w.key.Name())
		}
	}
	return func(w *part) bool { return slices.Contains(names, w.key.Name()) }
}
