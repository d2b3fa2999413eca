package quorum

import "slices"

// How a start gets into office: look, prepare at R members, choose, fetch, stage on
// W members under the own ballot. Up to then it is read-only.

// answers are the members' answers to the present Look or Prepare.
func (p *Proposer) answers() []Answer {
	var all []Answer
	for _, q := range p.peers {
		if q.state != nil {
			all = append(all, Answer{q.member.Name, q.state})
		}
	}
	return all
}

// choose is Choose on the answers so far. They may name members that were not asked
// yet.
func (p *Proposer) choose() (Staged, bool) {
	best, ok := choose(p.answers(), p.founding, p.answered)
	p.talkTo(best.Config.Members())
	return best, ok
}

// draw takes a ballot above all that R members know of, unless another start has
// one since this disk's last.
func (p *Proposer) draw() {
	highest := p.own.Ballot
	if highest.Less(p.rival) {
		highest = p.rival
	}
	answers := p.answers()
	for _, a := range answers {
		if highest.Less(a.State.Promised) {
			highest = a.State.Promised
		}
	}
	p.see(answers)
	if highest != p.own.Ballot && !p.start.TakeOver {
		p.supersede(highest)
		return
	}
	// Saved before anybody hears of it: after a crash the disk must know its own
	// ballot from another start's. On disk is a ballot that nobody has promised, or
	// the one before; the next start draws a higher one.
	p.own.Ballot = Ballot{Number: highest.Number + 1, ID: p.start.ID}
	p.out = append(p.out, Save{p.own})
	p.phase, p.since = Preparing, p.now
	for _, q := range p.peers {
		q.state = nil
	}
}

// supersede ends this start for good.
func (p *Proposer) supersede(by Ballot) {
	p.end(Superseded, "another publisher of this ledger has started since, with "+by.String())
}

// fetch asks for the entries of what was chosen.
func (p *Proposer) fetch(best Staged) {
	p.phase, p.restored, p.since = Fetching, best, p.now
	var holders []Member
	for _, q := range p.peers {
		if q.state != nil && q.state.Staged.Ballot == best.Ballot && q.state.Staged.Tree == best.Tree {
			holders = append(holders, q.member)
		}
	}
	p.out = append(p.out, Fetch{best.Tree, holders})
}

// Unavailable says that a member's entries cannot be fetched. Its answer is dropped
// with them: R other members are as good.
func (p *Proposer) Unavailable(m Member) []Effect {
	if q := p.peer(m); q != nil && p.phase == Fetching {
		q.state, q.asked = nil, question{}
		p.phase = Preparing
	}
	return p.run()
}

// Fetched says that all entries of a tree are here, and gives its roots at the sizes
// of all signed trees.
func (p *Proposer) Fetched(now int64, tree Tree, evidence Consistency) []Effect {
	p.now = now
	if p.phase != Fetching || tree != p.restored.Tree {
		return p.run()
	}
	if err := grew(evidence, p.own.Signed.Tree, tree); err != nil {
		p.end(Alarm, "this disk has signed what is not in the restored tree: "+err.Error())
		return p.run()
	}
	if name, signed, err := outside(p.answers(), tree, evidence); err != nil {
		p.dispute(name, signed, err)
		return p.run()
	}
	for _, q := range p.peers {
		if q.state == nil {
			continue
		}
		if q.state.Proven.Tree.Size > p.proven.Tree.Size {
			p.proven = q.state.Proven
		}
		q.learn(q.state)
	}
	p.phase, p.config = Restoring, p.restored.Config
	p.leave()
	// The time is that of now, when R members refuse everybody else: what a start
	// before this one signs later states an earlier time.
	p.propose(proposal{p.config, tree, p.now})
	return p.run()
}

// see notes which trees the log had signed before a Prepare was sent.
func (p *Proposer) see(answers []Answer) {
	for _, a := range answers {
		for _, signed := range a.State.signed() {
			if !slices.Contains(p.seen, signed) {
				p.seen = append(p.seen, signed)
			}
		}
	}
}

// dispute is a signed tree that the chosen one does not continue. If it was signed
// before this start prepared, it was not chosen before: the key was misused. If it
// came up since, a start with a higher ballot may have got ahead of this one, while
// the member knows no more of it than the checkpoint: look again.
func (p *Proposer) dispute(name string, signed Tree, err error) {
	if slices.Contains(p.seen, signed) {
		p.end(KeyMisused, "the log has signed two histories, as member "+name+" shows: "+err.Error())
		return
	}
	p.see(p.answers())
	p.lookAgain()
}

// lookAgain begins the start anew. Nothing was staged yet.
func (p *Proposer) lookAgain() {
	p.phase, p.since = Looking, p.now
	for _, q := range p.peers {
		q.state, q.asked = nil, question{}
	}
}

// Indexed says that each image of the restored tree can be looked up. Only now can
// it be told whether an image is on the ledger already.
func (p *Proposer) Indexed() []Effect {
	if p.phase == Indexing {
		p.phase = Serving
	}
	return p.run()
}
