package quorum

import "slices"

// Phase is how far a start of a publisher has come.
type Phase string

const (
	// Looking reads what the members know. Nothing is signed up to Serving but the
	// tree that was restored.
	Looking Phase = "Looking"
	// Preparing waits for the promises of R members.
	Preparing Phase = "Preparing"
	// Fetching waits for the entries of the chosen tree.
	Fetching Phase = "Fetching"
	// Restoring stages the chosen tree on W members under the own ballot.
	Restoring Phase = "Restoring"
	// Indexing waits until the entries of the chosen tree can be looked up.
	Indexing Phase = "Indexing"
	// Serving accepts images.
	Serving Phase = "Serving"
	// Superseded: another start holds a higher ballot. Follow it; move aside what
	// this disk has beyond its ledger. Only the operator starts another try.
	Superseded Phase = "Superseded"
	// KeyMisused: the log has signed what cannot be continued. Stop; a person must
	// look at it.
	KeyMisused Phase = "KeyMisused"
	// Alarm: what this disk has signed is not in the chosen tree, which no crash
	// explains. Keep the disk, sign nothing; a person must look at it.
	Alarm Phase = "Alarm"
)

// over tells whether the start has ended for good.
func (p Phase) over() bool { return p == Superseded || p == KeyMisused || p == Alarm }

// A step is what a publisher in office waits for. It does one thing at a time, so
// that what it proposes is one line.
type step string

const (
	idle       step = ""
	building   step = "the hashes of a batch"
	staging    step = "members that stage"
	confirming step = "members that confirm the ballot"
	signing    step = "the log's signature"
	proving    step = "cosignatures that satisfy the policy"
	keeping    step = "members that keep the cosignatures"
)

// Own is what a publisher's disk keeps of its own doings.
type Own struct {
	Ballot Ballot `json:"ballot"` // the newest that it has drawn
	Signed Signed `json:"signed"` // the largest tree that it has signed
}

// Start is what a publisher starts with.
type Start struct {
	ID  string // random, for the ballot
	Now int64  // Unix time in seconds
	Own Own    // of its disk; zero for an empty one
	// TakeOver says that the operator wants this start to replace one with another
	// disk. Without it a start that finds another one's ballot is Superseded.
	TakeOver bool
	// Members are those to ask first: all that there are now. Who counts is what they
	// answer.
	Members  []Member
	Founding *Founding
	// Patience is after how many seconds without progress the quorum counts as
	// unreachable. Nothing is given up then.
	Patience int64
	Queue    int // at most so many images wait
}

// Proposer is one start of a publisher. Its inputs are methods; each returns what
// to do, in that order. It is owned by one goroutine. The zero value is of no use.
type Proposer struct {
	start  Start
	own    Own
	now    int64
	since  int64 // when it began to wait for what it waits for
	phase  Phase
	reason string // why it is over
	step   step
	peers  []*peer // members to talk to: of the configuration, or about to join
	out    []Effect

	rival      Ballot    // the one that has outbid this start, while it looked
	seen       []Tree    // that the log had signed before the last Prepare
	restored   Staged    // what was chosen at the start
	founding   *Founding // until the first configuration is chosen
	config     Config    // of the last chosen proposal
	goal       proposal  // what is being staged
	chosen     Tree      // the last one chosen under the own ballot
	head       Signed    // the last one signed under it
	signature  uint64    // counts the signatures
	proven     Signed    // the last one that satisfied the policy
	round      uint64    // counts the refreshes
	roundAt    int64     // the time that the present one is to sign
	wish       *List     // the list of members to change to
	queue      []string  // images that wait for the next batch
	batch      []string  // images of the present one
	held       map[string]bool
	staged     counts // which members are enough to choose,
	answered   counts // to restore
	reassuring counts // and to sign again: fields so that the simulation can break each
}

// proposal is a configuration and a tree, with the time that its signature states.
type proposal struct {
	config Config
	tree   Tree
	at     int64
}

// peer is a member as the proposer last heard of it.
type peer struct {
	member  Member
	asked   question // what it was asked last
	state   *State   // its answer to the present Look or Prepare
	staged  Staged   // what it has staged under the own ballot
	from    int64    // the size up to which it holds the entries
	signed  uint64   // which signature it has committed
	proven  int64    // the size of the proof that it keeps
	round   uint64   // the refresh that it has confirmed
	refusal string   // why it did not do what it was asked last
}

// NewProposer begins a start, read-only.
func NewProposer(start Start) (*Proposer, []Effect) {
	p := &Proposer{start: start, own: start.Own, now: start.Now, since: start.Now, phase: Looking, founding: start.Founding, held: map[string]bool{},
		staged: Config.Staged, answered: Config.Restored, reassuring: Config.Staged}
	p.talkTo(start.Members)
	if start.Founding != nil {
		p.talkTo(start.Founding.Config.Members())
	}
	return p, p.run()
}

// Tick says what time it is, and asks again who has not answered. Each request may
// be lost or come twice.
func (p *Proposer) Tick(now int64) []Effect {
	p.now = now
	for _, q := range p.peers {
		q.asked = question{}
	}
	return p.run()
}

// run does what can be done now, and returns what the caller has to do.
func (p *Proposer) run() []Effect {
	for p.advance() {
	}
	for _, q := range p.peers {
		p.ask(q)
	}
	out := p.out
	p.out = nil
	return out
}

// advance takes one step if what it waits for is there.
func (p *Proposer) advance() bool {
	switch {
	case p.phase.over():
		return false
	case p.phase == Looking:
		if _, ok := p.choose(); ok {
			p.draw()
			return true
		}
	case p.phase == Preparing:
		if best, ok := p.choose(); ok {
			p.fetch(best)
			return true
		}
	case p.step == staging:
		if p.staged(p.goal.config, p.hasStaged) {
			p.accept()
			return true
		}
	case p.step == confirming:
		if p.reassuring(p.config, p.hasConfirmed) {
			p.sign(p.head.Tree, p.roundAt)
			return true
		}
	case p.step == keeping:
		if p.config.Staged(p.hasKept) {
			p.acknowledge()
			return true
		}
	case p.step == idle && p.phase != Fetching:
		return p.proceed()
	}
	return false
}

// await begins to wait for something else.
func (p *Proposer) await(what step) {
	p.step, p.since = what, p.now
}

func (p *Proposer) end(phase Phase, reason string) {
	p.phase, p.reason, p.step = phase, reason, idle
}

// talkTo adds members to those to talk to.
func (p *Proposer) talkTo(members []Member) {
	for _, m := range members {
		if !slices.ContainsFunc(p.peers, func(q *peer) bool { return q.member == m }) {
			p.peers = append(p.peers, &peer{member: m})
		}
	}
}

// leave drops those who are no members and about to become none.
func (p *Proposer) leave() {
	p.peers = slices.DeleteFunc(p.peers, func(q *peer) bool { return !p.config.lists(q.member) })
}
