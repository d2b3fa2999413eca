package quorum

// Status is a proposer for people and metrics.
type Status struct {
	Phase    Phase
	Reason   string // why it is over
	Ballot   Ballot
	Config   Config
	Signed   Tree
	Proven   Tree
	Waiting  int    // images that are held
	WaitsFor string // what the publisher waits for, if that takes longer than Patience
	// Missing are the members that lack something, with their last refusal if it was
	// one; for QuorumUnreachable.
	Missing map[string]string
}

// Status tells how the publisher does.
func (p *Proposer) Status() Status {
	s := Status{Phase: p.phase, Reason: p.reason, Ballot: p.own.Ballot, Config: p.config, Signed: p.head.Tree, Proven: p.proven.Tree, Waiting: len(p.held)}
	if p.phase.over() || p.now-p.since < p.start.Patience || p.step == idle && p.phase == Serving {
		return s
	}
	if s.WaitsFor = string(p.step); p.step == idle {
		s.WaitsFor = "members that answer a start"
	}
	s.Missing = map[string]string{}
	for _, q := range p.peers {
		if _, req := p.question(q); req != nil {
			s.Missing[q.member.Name] = q.refusal
		}
	}
	return s
}
