package quorum

import "bytes"

// What a proposer asks its members, and what it makes of their answers. Each question
// follows from the difference between what should be at a member and what it last
// said, so that whatever was lost is asked again.

// question tells one request from another without comparing their contents.
type question struct {
	kind    string
	version uint64 // of the configuration, signature or refresh
	size    int64
	from    int64
}

// ask sends what a member should be asked now, unless that was sent already.
func (p *Proposer) ask(q *peer) {
	is, req := p.question(q)
	if req != nil && is != q.asked {
		q.asked = is
		p.out = append(p.out, Send{q.member, req})
	}
}

func (p *Proposer) question(q *peer) (question, Request) {
	target := proposal{config: p.config, tree: p.chosen}
	if p.step == staging {
		target = p.goal
	}
	ballot := p.own.Ballot
	switch {
	case p.phase.over() || p.phase == Fetching:
		return question{}, nil
	case p.phase == Preparing:
		if q.state != nil {
			return question{}, nil
		}
		return question{kind: "prepare", version: ballot.Number}, Prepare{ballot}
	case q.state == nil:
		return question{kind: "look"}, Look{}
	case p.phase == Looking:
		return question{}, nil
	case !q.hasStaged(ballot, target):
		return question{"stage", target.config.Version, target.tree.Size, q.from}, Stage{Ballot: ballot, Config: target.config, Tree: target.tree, From: q.from}
	case p.step == confirming && q.round < p.round:
		return question{"confirm", p.round, p.head.Tree.Size, 0}, Confirm{ballot, p.head.Tree, p.round}
	case q.signed < p.signature:
		return question{"commit", p.signature, p.head.Tree.Size, 0}, Commit{Signed: p.head}
	case q.proven < p.proven.Tree.Size:
		return question{"keep", 0, p.proven.Tree.Size, 0}, Keep{Ballot: ballot, Proven: p.proven}
	}
	return question{}, nil
}

// hasStaged tells whether the member has accepted at least the target.
func (q *peer) hasStaged(b Ballot, target proposal) bool {
	return q.staged.Ballot == b && q.staged.Config.Version >= target.config.Version && q.staged.Tree.Size >= target.tree.Size
}

func (p *Proposer) hasStaged(name string) bool {
	q := p.voter(p.goal.config, name)
	return q != nil && q.hasStaged(p.own.Ballot, p.goal)
}

func (p *Proposer) hasConfirmed(name string) bool {
	q := p.voter(p.config, name)
	return q != nil && q.round == p.round
}

func (p *Proposer) hasKept(name string) bool {
	q := p.voter(p.config, name)
	return q != nil && q.proven >= p.proven.Tree.Size
}

// voter is the member of that name in a configuration. A peer of the same name with
// another key has no vote.
func (p *Proposer) voter(c Config, name string) *peer {
	for _, q := range p.peers {
		if q.member.Name == name && c.lists(q.member) {
			return q
		}
	}
	return nil
}

func (p *Proposer) peer(m Member) *peer {
	for _, q := range p.peers {
		if q.member == m {
			return q
		}
	}
	return nil
}

// Promised is a member's answer to a Look or a Prepare.
func (p *Proposer) Promised(from Member, req Request, promise Promise) []Effect {
	if promise.State.Key != from.Key {
		return p.Refused(from, req, strange(from, promise.State.Key))
	}
	q := p.peer(from)
	if q == nil {
		return p.run()
	}
	// An answer to a Look, or to an earlier Prepare, promises nothing: where
	// promises are counted it is left out.
	_, look := req.(Look)
	prepared := req == Request(Prepare{p.own.Ballot})
	switch p.phase {
	case Looking:
		if look {
			q.state = &promise.State
		}
	case Preparing, Fetching:
		if prepared {
			q.state = &promise.State
		}
	case Restoring, Indexing, Serving:
		if q.state == nil && (look || prepared) {
			q.learn(&promise.State)
		}
	}
	q.refusal = ""
	return p.run()
}

// learn notes what the member holds.
func (q *peer) learn(s *State) {
	q.state, q.from, q.proven = s, s.Log.Tree.Size, s.Proven.Tree.Size
}

// Replied is a member's answer to a Stage, Commit, Keep or Confirm.
func (p *Proposer) Replied(from Member, req Request, reply Reply) []Effect {
	if reply.Key != from.Key {
		return p.Refused(from, req, strange(from, reply.Key))
	}
	q := p.peer(from)
	if q == nil || p.phase.over() {
		return p.run()
	}
	q.refusal = ""
	if reply.Staged.Ballot == p.own.Ballot && newer(reply.Staged, q.staged) {
		q.staged, q.from = reply.Staged, reply.Staged.Tree.Size
	}
	switch req := req.(type) {
	case Commit:
		if req.Signed.Tree == p.head.Tree && bytes.Equal(req.Signed.Note, p.head.Note) {
			q.signed = p.signature
		}
	case Confirm:
		if req.Ballot == p.own.Ballot {
			q.round = max(q.round, req.Round)
		}
	}
	q.proven = max(q.proven, reply.Proven.Size)
	return p.run()
}

// Refused is a member's refusal of a request.
func (p *Proposer) Refused(from Member, req Request, r *Refusal) []Effect {
	q := p.peer(from)
	if q == nil || p.phase.over() {
		return p.run()
	}
	q.refusal = r.Text
	switch r.Reason {
	case Outbid:
		p.outbid(r.Promised)
	case Contradicts:
		p.contradicted(from, req, r)
	case Stale:
		p.overtaken(from, req, r)
	case Behind, NotStaged:
		q.from = r.Size
		if _, staging := req.(Stage); !staging {
			q.staged = Staged{}
		}
	}
	return p.run()
}

// outbid is the answer to a higher ballot. A start that has staged nothing yet looks
// again; one in office never raises its own, for two that did would stop each other
// for ever.
func (p *Proposer) outbid(by Ballot) {
	if !p.own.Ballot.Less(by) || p.phase == Looking {
		return // the refusal of an earlier ballot of this start
	}
	if p.phase != Preparing && p.phase != Fetching {
		p.supersede(by)
		return
	}
	p.rival = by
	p.lookAgain()
}

// contradicted is the answer of a member that knows a signed tree which does not agree
// with ours. If ours is signed too, that is proof. Else another publisher may have
// taken over without this member, which has only seen its checkpoint: the next start
// finds out.
func (p *Proposer) contradicted(from Member, req Request, r *Refusal) {
	if _, signed := req.(Commit); signed {
		p.end(KeyMisused, "member "+from.Name+": "+r.Text)
		return
	}
	p.end(Superseded, "the log has signed another continuation, as member "+from.Name+" shows: "+r.Text)
}

// overtaken is the answer of a member that knows a larger signed tree than the one that
// it is to cosign. If this start has not signed that tree, another publisher has, by a
// ballot that this member may not have heard of: no member will cosign ours any more.
func (p *Proposer) overtaken(from Member, req Request, r *Refusal) {
	if _, signed := req.(Commit); signed && r.Size > p.own.Signed.Tree.Size {
		p.end(Superseded, "the log has signed more than this publisher, as member "+from.Name+" shows: "+r.Text)
	}
}

func strange(m Member, key string) *Refusal {
	return refuse(StateLost, "member %s answers with key %s instead of %s, so it has another disk: replace it by a member with a name of its own", m.Name, key, m.Key)
}
