package quorum

// kind is what may happen in a step beside the arrival of a message.
type kind int

const (
	submit   kind = iota // a client asks for an image
	tick                 // time passes at a publisher
	die                  // a publisher's process dies, or a dead one starts
	tryNew               // the operator starts a publisher with an empty disk
	pause                // a publisher stands still, or goes on
	link                 // the link of a publisher and a member breaks, or mends
	loseDisk             // a member's disk, or a publisher's, is gone
	change               // the operator wants another list of members
	refresh              // the minute is over
	gossip               // anybody hands a signed checkpoint on, by C2SP's ways
	rotate               // the log gets a new key, or a cosigner hears of it
	steal                // a thief signs, or shows what it has signed
	kinds
)

func (w *world) fault(k kind) {
	s := w.starts[w.n(len(w.starts))]
	runs := s.p != nil && !s.paused
	switch k {
	case submit:
		if runs {
			image := 1 + int32(w.n(int(w.images)+1))
			w.images = max(w.images, image)
			s.submit(w, image)
		}
	case tick:
		if runs {
			s.tick(w)
		}
	case die:
		switch {
		case s.gone:
		case s.p == nil:
			s.boot(w)
		default:
			s.crash(w)
		}
	case tryNew:
		// A ledger from before there were members is on its own disk alone at first.
		if len(w.starts) < maxStarts-8 && (w.founding == nil || w.plan.base == 0) {
			w.newStart(true)
		}
	case pause:
		if s.paused = !s.paused && s.p != nil; s.paused {
			w.log("p%d stands still", s.id)
		} else {
			w.log("p%d goes on", s.id)
		}
	case link:
		if d := w.disks[w.n(len(w.disks))]; d.id < 64 {
			w.cut[s.id] ^= 1 << d.id
			w.log("link p%d %s changes", s.id, d.member.Name)
		}
	case loseDisk:
		w.loseDisk()
	case change:
		if runs {
			w.change(s)
		}
	case refresh:
		if runs {
			s.do(w, s.p.Refresh(w.now))
		}
	case gossip:
		w.gossip()
	case rotate:
		if w.n(4) == 0 && w.rotated < 2 {
			w.rotated++
		}
		w.disks[w.n(len(w.disks))].keys = 3
	case steal:
		w.steal()
	}
}

// loseDisk destroys a disk. Members are spared while the ledger, and each list that a
// publisher is moving to, would not survive it, unless the schedule is harsh.
func (w *world) loseDisk() {
	if w.n(3) == 0 {
		s := w.starts[w.n(len(w.starts))]
		if len(w.starts) < maxStarts-8 && w.founding == nil && !s.gone {
			w.log("p%d loses its disk", s.id)
			s.crash(w)
			s.gone = true
			w.newStart(true)
		}
		return
	}
	d := w.disks[w.n(len(w.disks))]
	if d.outside || d.lost {
		return
	}
	if !w.plan.harsh {
		d.lost = true
		spared := !w.alive()
		d.lost = false
		if spared {
			return
		}
	}
	d.lose(w)
}

// intact tells whether the member of that name has its disk.
func (w *world) intact(name string) bool {
	for _, d := range w.disks {
		if d.member.Name == name {
			return !d.lost
		}
	}
	return false
}

// alive tells whether the members with their disks are enough to restore and append.
func (w *world) alive() bool {
	var answers []Answer
	for _, d := range w.disks {
		if !d.outside && !d.lost {
			answers = append(answers, Answer{d.member.Name, &d.state})
		}
	}
	best, ok := Choose(answers, w.founding)
	if !ok || !best.Config.Staged(w.intact) {
		return false
	}
	for _, s := range w.starts {
		if s.p == nil || s.p.phase.over() || s.p.goal.config.Version == 0 {
			continue
		}
		wish := s.p.config
		if s.p.wish != nil {
			wish = Config{Version: 1, List: *s.p.wish}
		}
		for _, c := range []Config{s.p.config, s.p.goal.config, wish} {
			if !c.Staged(w.intact) || !c.Restored(w.intact) {
				return false
			}
		}
	}
	return true
}

// disk is the disk of a member.
func (w *world) disk(m Member) *disk {
	for _, d := range w.disks {
		if d.member == m {
			return d
		}
	}
	return nil
}

// change asks a publisher to replace a member, to add one or to leave one out.
func (w *world) change(s *start) {
	list := append([]Member(nil), s.p.config.List.Members...)
	if len(list) == 0 || len(w.disks) > 12 {
		return
	}
	out := w.n(len(list))
	for i, m := range list {
		if !w.intact(m.Name) {
			out = i
		}
	}
	how := w.n(4)
	if how == 0 && len(list) < 5 {
		list = append(list, w.newDisk(Mirror).member)
	} else if how == 1 && len(list) > 1 {
		list = append(list[:out], list[out+1:]...)
	} else {
		list[out] = w.newDisk(Mirror).member
	}
	if effects, err := s.p.Change(NewList(len(list)/2+1, list...)); err == nil {
		w.log("p%d is to change its members to %v", s.id, list)
		s.do(w, effects)
	}
}

// gossip hands any signed checkpoint to any cosigner, and the entries from any disk.
func (w *world) gossip() {
	if len(w.facts.notes) == 0 {
		return
	}
	signed := w.facts.notes[w.n(len(w.facts.notes))]
	d := w.disks[w.n(len(w.disks))]
	if d.lost {
		return
	}
	var source entries
	if other := w.disks[w.n(len(w.disks))]; !other.lost {
		source = other.entries
	}
	_, r := d.submit(w, signed, d.state.Pending.Tree.Size, source)
	w.log("gossip of %v to %s: %v", signed.Tree, d.member.Name, r)
}

// steal is a thief with the log's key: it continues any tree in its own way, and
// shows what it has signed to any cosigner. A bad cosigner signs everything.
func (w *world) steal() {
	f := &w.facts
	if len(f.stolen) == 0 || len(f.stolen) < 6 && w.n(3) == 0 {
		size := int32(w.n(int(w.history[f.signed].size) + 1))
		b := w.history.at(f.signed, size)
		if len(f.stolen) > 0 && w.n(2) == 0 {
			b = w.history.block(f.stolen[w.n(len(f.stolen))].signed.Tree)
		}
		b = w.history.grow(b, 1000+int32(w.n(3)))
		f.stolen = append(f.stolen, theft{signed: Signed{w.history.tree(b), []byte{3}}})
		return
	}
	t := &f.stolen[w.n(len(f.stolen))]
	d := w.disks[w.n(len(w.disks))]
	if d.lost {
		return
	}
	ok := d.bad
	if !ok {
		var all entries
		all.store(w.history, w.history.block(t.signed.Tree), 0)
		ok, _ = d.submit(w, t.signed, d.state.Pending.Tree.Size, all)
	}
	w.log("thief shows %v to %s: %v", t.signed.Tree, d.member.Name, ok)
	if ok {
		t.lines |= 3 << (2 * d.id)
		if w.satisfied(w.foundation, t.lines) {
			w.satisfy(w.history.block(t.signed.Tree))
		}
	}
}

// heal ends all faults, and lets the operator want one publisher.
func (w *world) heal() {
	w.log("everything heals")
	w.healed = true
	w.cut = [maxStarts]uint64{}
	for _, d := range w.disks {
		d.keys = 3
	}
	for _, s := range w.starts {
		s.paused = false
	}
	w.settle(300)
	if !w.alive() {
		return // nothing is promised
	}
	wanted := w.starts[len(w.starts)-1]
	for _, s := range w.starts {
		if s.p != nil && !s.p.phase.over() {
			wanted = s
		}
	}
	for _, s := range w.starts {
		if s != wanted && s.p != nil {
			s.crash(w)
		}
	}
	for round := 0; w.broken == ""; round++ {
		if w.done(wanted) {
			return
		}
		if round == 60 {
			w.breaks("liveness", "p%d is at %+v", wanted.id, wanted.status())
		}
		switch {
		case wanted.gone || wanted.p != nil && wanted.p.phase == Superseded:
			if len(w.starts) == maxStarts {
				w.breaks("liveness", "publishers replace each other for ever")
				return
			}
			if wanted.p != nil {
				wanted.crash(w)
			}
			wanted = w.newStart(true)
		case wanted.p == nil:
			wanted.boot(w)
		case wanted.p.phase == Looking && round == 10:
			// It was told of members that are all gone. The operator tells it of those
			// there are, by starting it again.
			wanted.crash(w)
			wanted.boot(w)
		}
		for image := int32(1); image <= w.images && wanted.p != nil && wanted.p.phase == Serving; image++ {
			wanted.submit(w, image)
		}
		w.now += 10
		if wanted.p != nil {
			wanted.tick(w)
		}
		w.settle(600)
	}
}

// settle delivers what is under way.
func (w *world) settle(most int) {
	for ; most > 0 && len(w.messages) > 0 && w.broken == ""; most-- {
		w.now++
		w.deliver()
	}
}

func (s *start) status() any {
	if s.p == nil {
		return "dead"
	}
	return s.p.Status()
}

// done tells whether all images are acknowledged and no honest cosigner is stuck.
func (w *world) done(s *start) bool {
	if s.p == nil || s.p.phase != Serving || s.p.step != idle {
		return false
	}
	head := s.p.head.Tree
	if w.history.block(head) != w.facts.acked {
		return false
	}
	for image := int32(1); image <= w.images; image++ {
		if !w.history.has(w.facts.acked, 0, image) {
			return false
		}
	}
	for _, d := range w.disks {
		if !d.lost && (d.outside || s.p.config.lists(d.member)) && (d.state.Cosigned().Tree != head || d.state.Pending.Tree != head) {
			return false
		}
	}
	return true
}
