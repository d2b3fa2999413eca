package quorum

// The transitions of a storing member that the publisher asks for over our own
// protocol. Who the sender is, is checked by the caller: only a publisher of this
// ledger may prepare, stage, keep and confirm. Signatures of the log in notes are
// verified by the caller too.

// Look asks for the record and changes nothing. A start begins with it: a publisher
// that has been replaced learns so without disturbing the one in office.
type Look struct{}

// Promise answers a Look and a Prepare with all that the member has accepted.
type Promise struct {
	State State `json:"state"`
}

// Look answers with the record.
func (s State) Look(Look) (State, Promise, error) { return s, Promise{s}, s.stores() }

// Prepare asks for the promise to accept nothing of a lower ballot.
type Prepare struct {
	Ballot Ballot `json:"ballot"`
}

// Prepare promises req.Ballot. A promise is never taken back.
func (s State) Prepare(req Prepare) (State, Promise, error) {
	if err := s.fence(req.Ballot); err != nil {
		return s, Promise{}, err
	}
	if s.Promised != req.Ballot {
		s.Promised = req.Ballot
		s = s.changed()
	}
	return s, Promise{s}, nil
}

// Stage asks to accept a tree that nobody has signed yet.
type Stage struct {
	Ballot Ballot `json:"ballot"`
	Config Config `json:"config"`
	Tree   Tree   `json:"tree"`
	// From is the size from which on the entries come with the request. The caller
	// takes those below from the log, or from what is staged, appends the ones in
	// the request, computes the root, and refuses a Tree that has another one.
	From int64 `json:"from"`
	// Evidence has the roots of Tree at the sizes of the record's trees. The caller
	// computes them, too: a sender is not asked for what it could get wrong.
	Evidence Consistency `json:"-"`
}

// Stage accepts req.Tree. Before the new State, its entries must be durable.
func (s State) Stage(req Stage) (State, Reply, error) {
	if err := s.fence(req.Ballot); err != nil {
		return s, Reply{}, err
	}
	if !req.Config.Equal(s.Staged.Config) {
		if err := req.Config.Validate(); err != nil {
			return s, Reply{}, refuse(Malformed, "staging %v: %v", req.Tree, err)
		}
	}
	own := req.Ballot == s.Staged.Ballot
	if own && (req.Config.Version < s.Staged.Config.Version || req.Tree.Size < s.Staged.Tree.Size) {
		return s, s.Reply(), nil // an earlier proposal of the same ballot, late or twice
	}
	if signed := s.Pending.Tree; signed.Size > req.Tree.Size {
		r := refuse(Stale, "staging %v: the log has signed %v already; stage a tree that continues it", req.Tree, signed)
		r.Size = signed.Size
		return s, Reply{}, r
	}
	// First whether the entries are here: without them the caller has no evidence.
	if have := s.have(req.Evidence, req.Tree); req.From > have {
		r := refuse(Behind, "staging %v from entry %d: the entries from %d on are missing here; send them too", req.Tree, req.From, have)
		r.Size = have
		return s, Reply{}, r
	}
	for _, signed := range []Tree{s.Log.Tree, s.Pending.Tree} {
		if err := grew(req.Evidence, signed, req.Tree); err != nil {
			return s, Reply{}, refuse(Contradicts, "staging %v: it does not continue %v, which the log has signed: %v", req.Tree, signed, err)
		}
	}
	if own {
		if err := s.continues(req); err != nil {
			return s, Reply{}, err
		}
		if req.Tree == s.Staged.Tree && req.Config.Version == s.Staged.Config.Version {
			return s, s.Reply(), nil
		}
	}
	s.Promised = req.Ballot
	s.Staged = Staged{Ballot: req.Ballot, Config: req.Config, Tree: req.Tree}
	s = s.changed()
	return s, s.Reply(), nil
}

// continues refuses a proposal that is not in one line with the one accepted before
// it under the same ballot.
func (s State) continues(req Stage) error {
	old := s.Staged
	if req.Config.Version == old.Config.Version && !req.Config.Equal(old.Config) {
		return refuse(Contradicts, "staging %v: %v has two configurations of version %d", req.Tree, req.Ballot, req.Config.Version)
	}
	if err := grew(req.Evidence, old.Tree, req.Tree); err != nil {
		return refuse(Contradicts, "staging %v: it does not continue %v of the same ballot: %v", req.Tree, old.Tree, err)
	}
	return nil
}

// have is up to which size this member holds entries of t: those of its log, and
// what it has staged if t continues that.
func (s State) have(c Consistency, t Tree) int64 {
	staged := s.Staged.Tree
	if staged.Size > s.Log.Tree.Size && staged.Size <= t.Size && grew(c, staged, t) == nil {
		return staged.Size
	}
	return s.Log.Tree.Size
}

// Commit brings a tree that the log has signed, and therefore W members had staged.
type Commit struct {
	Signed Signed `json:"signed"`
	// Evidence has the roots of the staged tree at the sizes of the record's trees
	// and of Signed, computed by the caller from the staged entries.
	Evidence Consistency `json:"-"`
}

// Commit moves the staged entries of a signed tree to the log. Afterwards the key
// may cosign State.Log. It asks for no ballot: whoever brings it, the tree was
// chosen.
func (s State) Commit(req Commit) (State, Reply, error) {
	t := req.Signed.Tree
	if err := s.stores(); err != nil {
		return s, Reply{}, err
	}
	if signed := s.Pending.Tree; signed.Size > t.Size {
		// To cosign it would say that nothing larger is known.
		r := refuse(Stale, "committing %v: %v is known already; commit that or a later one", t, signed)
		r.Size = signed.Size
		return s, Reply{}, r
	}
	if t.Size > s.Log.Tree.Size && (t.Size > s.Staged.Tree.Size || grew(req.Evidence, t, s.Staged.Tree) != nil) {
		r := refuse(Behind, "committing %v: its entries from %d on are not staged here; stage them first", t, s.Log.Tree.Size)
		r.Size = s.Log.Tree.Size
		return s, Reply{}, r
	}
	for _, signed := range []Tree{s.Log.Tree, s.Pending.Tree} {
		if err := grew(req.Evidence, signed, t); err != nil {
			return s, Reply{}, refuse(Contradicts, "committing %v: it does not continue %v, which the log has signed too: %v", t, signed, err)
		}
	}
	s.Log, s.Pending = req.Signed, req.Signed
	s = s.changed()
	return s, s.Reply(), nil
}

// Keep brings a tree with the cosignatures that satisfied the ledger's policy.
type Keep struct {
	Ballot Ballot `json:"ballot"`
	Proven Signed `json:"proven"`
	// Evidence has the roots of the staged tree, as for Commit.
	Evidence Consistency `json:"-"`
}

// Keep stores the proof of what is about to be acknowledged, so that R members have
// one for every acknowledged block. It is fenced like Stage: a publisher that was
// replaced hears of it here, too.
func (s State) Keep(req Keep) (State, Reply, error) {
	t := req.Proven.Tree
	if err := s.accepted(req.Ballot, t); err != nil {
		return s, Reply{}, err
	}
	if t.Size < s.Proven.Tree.Size {
		return s, s.Reply(), nil
	}
	if err := grew(req.Evidence, t, s.Staged.Tree); err != nil {
		return s, Reply{}, refuse(Contradicts, "keeping the cosignatures of %v: the staged %v does not continue it: %v", t, s.Staged.Tree, err)
	}
	s.Proven = req.Proven
	s = s.changed()
	return s, s.Reply(), nil
}

// Confirm asks whether a ballot is still the highest, before its holder signs its
// newest tree once more with a new time.
type Confirm struct {
	Ballot Ballot `json:"ballot"`
	Tree   Tree   `json:"tree"`
	// Round counts the refreshes of the ballot: the answer to an earlier one says
	// nothing about now.
	Round uint64 `json:"round"`
}

// Confirm changes nothing.
func (s State) Confirm(req Confirm) (State, Reply, error) {
	if err := s.accepted(req.Ballot, req.Tree); err != nil {
		return s, Reply{}, err
	}
	if known := s.Pending.Tree; known.Size > req.Tree.Size {
		r := refuse(Stale, "confirming %v: the log has signed %v already; a newer time on the smaller tree would look like a rollback", req.Tree, known)
		r.Size = known.Size
		return s, Reply{}, r
	}
	return s, s.Reply(), nil
}

// fence refuses a ballot below the promised one.
func (s State) fence(b Ballot) error {
	if err := s.stores(); err != nil {
		return err
	}
	if b.Number == 0 || b.ID == "" {
		return refuse(Malformed, "%v: a publisher draws a number above 0 and an ID at each start", b)
	}
	if b.Less(s.Promised) {
		r := refuse(Outbid, "%v: %v was promised since, so another publisher has taken over; step down and follow", b, s.Promised)
		r.Promised = s.Promised
		return r
	}
	return nil
}

// accepted refuses unless t, or a continuation of it, is what this member has
// accepted last, under b, and no higher ballot was promised since.
func (s State) accepted(b Ballot, t Tree) error {
	if err := s.fence(b); err != nil {
		return err
	}
	if s.Staged.Ballot != b || s.Staged.Tree.Size < t.Size {
		r := refuse(NotStaged, "%v is not staged here under %v; stage it first", t, b)
		r.Size = s.Log.Tree.Size
		return r
	}
	return nil
}

func (s State) stores() error {
	if s.Role != Mirror {
		return refuse(Malformed, "cosigner %s is a witness and stores nothing; leave it out of the list of members", s.Key)
	}
	return nil
}
