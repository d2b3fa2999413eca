package quorum

import "strconv"

// start is a publisher's disk with the process on it. Its life counts its processes.
type start struct {
	id, life int
	own      Own
	entries  entries
	takeOver bool // until it has a ballot
	gone     bool // the disk, with the process
	paused   bool
	keys     byte // of the log, that this process signs with: 1 the old one, 2 the new one
	p        *Proposer

	fetching Tree
	holder   Member
	indexed  int32            // images up to here are found by a look-up
	head     Signed           // for which cosignatures are collected,
	lines    uint64           // two bits for each cosigner
	since    map[string]int64 // when an image was submitted, for a mutation
}

func (w *world) newStart(takeOver bool) *start {
	s := &start{id: len(w.starts), takeOver: takeOver}
	w.starts = append(w.starts, s)
	s.boot(w)
	return s
}

// boot begins a process. It is told all members there are as those to ask, or the
// first ones alone: a hint that may be old.
func (s *start) boot(w *world) {
	s.life++
	s.paused, s.fetching, s.head, s.lines, s.indexed = false, Tree{}, Signed{}, 0, 0
	var hint []Member
	for _, d := range w.disks {
		if !d.outside && (w.healed || d.id < w.plan.members || w.in(70)) {
			hint = append(hint, d.member)
		}
	}
	begin := Start{ID: strconv.Itoa(s.id) + "." + strconv.Itoa(s.life), Now: w.now, Own: s.own, TakeOver: s.takeOver, Members: hint, Founding: w.founding, Patience: 30, Queue: 20}
	w.log("p%d starts, takeover %v, %v", s.id, s.takeOver, s.own.Ballot)
	p, effects := NewProposer(begin)
	if w.mutation.proposer != nil {
		w.mutation.proposer(p)
	}
	s.keys = [...]byte{1, 3, 2}[w.rotated]
	s.p, s.since = p, map[string]int64{}
	s.do(w, effects)
}

func (s *start) crash(w *world) {
	w.log("p%d dies", s.id)
	s.life++
	s.p = nil
}

// post sends a message of this process.
func (s *start) post(w *world, m message) {
	m.start, m.life = s, s.life
	w.messages = append(w.messages, &m)
}

// do carries effects out, in their order.
func (s *start) do(w *world, effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Send:
			if d := w.disk(e.To); d != nil {
				s.post(w, message{work: ask, disk: d, request: e.Request})
			}
		case Save:
			if !w.healed && w.in(w.plan.crash) {
				if w.n(2) == 0 {
					s.own, s.takeOver = e.Own, false
				}
				s.crash(w)
				return
			}
			s.own, s.takeOver = e.Own, false
		case Fetch:
			s.fetching = e.Tree
			s.fetch(w, e.Holders)
		case Index:
			s.post(w, message{work: index, tree: e.Tree})
		case Build:
			s.post(w, message{work: build, tree: e.Base, images: e.Images})
		case Sign:
			s.post(w, message{work: sign, tree: e.Tree, at: e.At})
		case Cosign:
			s.collect(w, e.Signed)
		case Acked:
			s.indexed = w.history.block(e.Proven.Tree)
			w.acked(s.indexed)
		case Moved:
			if e.Config.Next != nil {
				w.reach(movedToBoth)
			} else {
				w.reach(movedToNew)
			}
		}
		if s.p == nil {
			return
		}
	}
	switch {
	case s.p.phase == KeyMisused || s.p.phase == Alarm:
		w.alarm(s)
	case s.p.phase == Superseded:
		w.reach(steppedDown)
	case s.p.phase == Looking && len(s.p.seen) > 0 && s.p.rival == (Ballot{}):
		w.reach(lookedAgain)
	}
}

func (s *start) fetch(w *world, holders []Member) {
	if s.entries.has(w.history.block(s.fetching)) {
		s.post(w, message{work: fetched, tree: s.fetching})
	} else if len(holders) > 0 {
		s.holder = holders[w.n(len(holders))]
		s.post(w, message{work: fetch, disk: w.disk(s.holder), tree: s.fetching})
	}
}

// receive is what arrives at a process.
func (s *start) receive(w *world, m *message) {
	h := w.history
	switch m.work {
	case answer:
		switch {
		case m.refusal != nil:
			s.do(w, s.p.Refused(m.disk.member, m.request, m.refusal))
		case m.promise != nil:
			s.do(w, s.p.Promised(m.disk.member, m.request, *m.promise))
		default:
			s.do(w, s.p.Replied(m.disk.member, m.request, m.reply))
			if c, ok := m.request.(Commit); ok && m.cosigned {
				s.cosigned(w, m.disk, c.Signed.Tree)
			}
		}
	case fetched:
		if w.history[h.block(m.tree)].size > w.history[w.facts.acked].size {
			w.reach(restoredTail)
		}
		if m.disk != nil {
			w.reach(othersEntries)
		}
		s.entries.store(h, h.block(m.tree), 0)
		s.do(w, s.p.Fetched(w.now, m.tree, computed{h, s.entries}))
	case index:
		s.indexed = h.block(m.tree)
		s.do(w, s.p.Indexed())
	case build:
		b := h.block(m.tree)
		for _, image := range m.images {
			n, _ := strconv.Atoi(image)
			b = w.history.grow(b, int32(n))
		}
		s.entries.store(w.history, b, 0)
		s.do(w, s.p.Built(w.now, w.history.tree(b)))
	case sign:
		s.do(w, s.p.Signed(w.sign(s, m.tree, m.at)))
	case submitted:
		switch {
		case m.cosigned:
			s.cosigned(w, m.disk, m.signed.Tree)
		case m.refusal.Reason == Stale && m.refusal.Size <= m.signed.Tree.Size:
			s.post(w, message{work: submitTo, disk: m.disk, signed: m.signed, old: m.refusal.Size})
		}
	}
}

// tick is the time, and the retries of the publisher's surroundings.
func (s *start) tick(w *world) {
	s.do(w, s.p.Tick(w.now))
	if s.p == nil {
		return
	}
	if s.p.phase == Fetching {
		if w.n(2) == 0 && !s.entries.has(w.history.block(s.fetching)) {
			s.do(w, s.p.Unavailable(s.holder))
		} else {
			s.fetch(w, []Member{s.holder})
		}
		return
	}
	if s.head.Note != nil && !s.p.phase.over() {
		s.collect(w, s.head)
	}
}

// collect asks outsiders for cosignatures.
func (s *start) collect(w *world, signed Signed) {
	if signed.Tree != s.head.Tree {
		s.lines = 0
	}
	s.head = signed
	w.facts.published(signed)
	for _, d := range w.disks {
		if d.outside && s.lines>>(2*d.id)&3 == 0 {
			s.post(w, message{work: submitTo, disk: d, signed: signed, old: d.state.Pending.Tree.Size * int64(w.n(2))})
		}
	}
	s.prove(w)
}

// cosigned notes the two lines of a cosigner.
func (s *start) cosigned(w *world, d *disk, t Tree) {
	if s.p != nil && t == s.head.Tree {
		s.lines |= 3 << (2 * d.id)
		s.prove(w)
	}
}

// prove tells the proposer once the policy is satisfied.
func (s *start) prove(w *world) {
	if s.p.step == proving && s.head.Tree == s.p.head.Tree && w.satisfied(s.p.config, s.lines) {
		w.satisfy(w.history.block(s.head.Tree))
		s.do(w, s.p.Proven(s.head))
	}
}

// submit asks to publish an image, as a client that tries again does: it looks the
// image up first.
func (s *start) submit(w *world, image int32) {
	if w.history.has(s.indexed, 0, image) {
		return
	}
	name := strconv.Itoa(int(image))
	if w.mutation.release && w.now-s.since[name] > 10 {
		delete(s.p.held, name)
	}
	effects, err := s.p.Submit(name)
	if err == nil {
		w.log("p%d is to publish %s", s.id, name)
		s.since[name] = w.now
		s.do(w, effects)
	}
}
