package quorum

import "slices"

// What a publisher in office does: build, stage, sign, commit, keep, acknowledge;
// refresh; and change the list of members.

// Submit takes an image to publish, by a name that stands for one block. The caller
// has looked it up: it is not in the tree of Index, nor in one acknowledged since.
// It stays held until Acked names it, for as long as this start lives, for nothing
// else tells its fate. After the next start it is looked up again.
func (p *Proposer) Submit(image string) ([]Effect, error) {
	switch {
	case p.phase != Serving:
		return nil, refuse(NotServing, "publishing %s: the publisher is not in office (%s); ask again later, or the one that is", image, p.phase)
	case p.held[image]:
		return nil, refuse(Held, "publishing %s: it is being published; wait for its fate", image)
	case len(p.queue) >= p.start.Queue:
		return nil, refuse(Full, "publishing %s: %d images wait already for %s; ask again later", image, len(p.queue), p.step)
	}
	p.held[image] = true
	p.queue = append(p.queue, image)
	return p.run(), nil
}

// proceed begins the next thing to do, if there is one.
func (p *Proposer) proceed() bool {
	switch {
	case p.phase != Serving && p.phase != Indexing:
		return false
	case p.config.Next != nil || p.wish != nil && p.caughtUp():
		p.change()
	case p.phase == Serving && len(p.queue) > 0:
		p.batch, p.queue = p.queue, nil
		p.await(building)
		p.out = append(p.out, Build{p.chosen, p.batch})
	default:
		return false
	}
	return true
}

// Built brings the tree that Build has made. Its time is fixed here, before any
// member hears of it.
func (p *Proposer) Built(now int64, tree Tree) []Effect {
	p.now = now
	if p.step == building && tree.Size > p.chosen.Size {
		p.propose(proposal{p.config, tree, p.now})
	}
	return p.run()
}

// propose stages a proposal. It continues the one before it.
func (p *Proposer) propose(next proposal) {
	p.goal = next
	p.await(staging)
	p.talkTo(next.config.Members())
}

// accept is where a proposal is chosen.
func (p *Proposer) accept() {
	moved := !p.goal.config.Equal(p.config)
	p.chosen, p.config, p.founding = p.goal.tree, p.goal.config, nil
	if p.phase == Restoring {
		p.phase = Indexing
		p.out = append(p.out, Index{p.chosen})
	}
	if moved {
		p.moved()
		return
	}
	p.sign(p.goal.tree, p.goal.at)
}

// sign asks for a signature. The tree was chosen, or, for a refresh, signed before.
func (p *Proposer) sign(tree Tree, at int64) {
	p.await(signing)
	p.out = append(p.out, Sign{tree, at})
}

// Signed brings the signed note of a tree.
func (p *Proposer) Signed(signed Signed) []Effect {
	if p.step != signing || signed.Tree != p.chosen {
		return p.run()
	}
	p.head, p.own.Signed = signed, signed
	p.signature++
	p.await(proving)
	// On disk is the ballot with the tree signed before. If we die here nobody has
	// seen the new signature; the tree is chosen, and the next start signs it.
	p.out = append(p.out, Save{p.own}, Cosign{signed})
	return p.run()
}

// Proven brings the newest tree with cosignatures that satisfy the policy.
func (p *Proposer) Proven(proven Signed) []Effect {
	if p.step == proving && proven.Tree == p.head.Tree {
		p.proven = proven
		p.await(keeping)
	}
	return p.run()
}

// acknowledge is where blocks become Published.
func (p *Proposer) acknowledge() {
	for _, image := range p.batch {
		delete(p.held, image)
	}
	p.out = append(p.out, Acked{p.proven, p.batch})
	p.batch = nil
	p.await(idle)
}

// Refresh signs the newest tree again with the time of now, after W members have
// confirmed that no other start has taken over before now.
func (p *Proposer) Refresh(now int64) []Effect {
	p.now = now
	if (p.step == idle || p.step == proving) && p.head.Note != nil {
		p.round++
		p.roundAt = p.now
		p.await(confirming)
	}
	return p.run()
}

// Change asks for another list of members. New members are brought up to date first,
// while images are published; up to then another wish replaces this one.
func (p *Proposer) Change(list List) ([]Effect, error) {
	switch {
	case p.phase != Serving:
		return nil, refuse(NotServing, "changing the list of members: the publisher is not in office (%s); ask again later", p.phase)
	case p.config.Next != nil || p.step == staging && !p.goal.config.Equal(p.config):
		return nil, refuse(Held, "changing the list of members: another change is under way; wait for its end")
	}
	if err := (Config{Version: p.config.Version + 1, List: p.config.List, Next: &list}).Validate(); err != nil {
		return nil, refuse(Malformed, "changing the list of members: %v", err)
	}
	p.leave()
	p.wish = &list
	p.talkTo(list.Members)
	return p.run(), nil
}

// caughtUp tells whether the list to change to could take over now: each new member,
// and W and R of the list, hold all that was chosen and proven. Once members have
// staged both lists there is no way back.
func (p *Proposer) caughtUp() bool {
	ready := func(m Member) bool {
		q := p.peer(m)
		return q.staged.Tree == p.chosen && q.proven >= p.proven.Tree.Size
	}
	in := func(name string) bool {
		return slices.ContainsFunc(p.wish.Members, func(m Member) bool { return m.Name == name && ready(m) })
	}
	late := slices.ContainsFunc(p.wish.Members, func(m Member) bool { return !p.config.lists(m) && !ready(m) })
	return !late && p.wish.W.Satisfied(in) && p.wish.R.Satisfied(in)
}

// change takes the next step of a change: to both lists, then to the new one. Each
// is a proposal, chosen before the next.
func (p *Proposer) change() {
	next := proposal{Config{Version: p.config.Version + 1, List: p.config.List, Next: p.wish}, p.chosen, p.now}
	if p.config.Next != nil {
		// What was acknowledged under the old list must be proven by the new one too.
		if p.proven.Note != nil && !p.config.Staged(p.hasKept) {
			p.await(keeping)
			return
		}
		next.config.List, next.config.Next = *p.config.Next, nil
	}
	p.propose(next)
}

// moved is where a configuration is in force.
func (p *Proposer) moved() {
	p.await(idle)
	if p.config.Next == nil {
		p.wish = nil
		p.leave()
	}
	p.out = append(p.out, Moved{p.config})
}
