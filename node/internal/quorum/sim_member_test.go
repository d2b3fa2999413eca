package quorum

import "strconv"

// disk is a cosigner's disk with the process on it: a member of ours, or an outsider.
// A crash loses nothing but an answer, for a process has no state beside its disk.
type disk struct {
	id       int
	member   Member
	state    State
	entries  entries
	outside  bool  // no member: it knows C2SP's ways in alone
	bad      bool  // it signs what a thief asks for
	lost     bool  // with its key; what answers under its name is new
	keys     int   // the log's keys that it trusts: 1 the old one, 2 the new one
	cosigned int32 // the largest tree that its key has signed
}

func (w *world) newDisk(role Role) *disk {
	w.members++
	n := strconv.Itoa(w.members)
	d := &disk{id: len(w.disks), member: Member{Name: "m" + n, Key: "k" + n}, keys: 1}
	d.state = New("example.com/log", d.member.Key, role)
	w.disks = append(w.disks, d)
	return d
}

// lose destroys a disk, and the key with it. The member's name comes back with a key
// and a record that are new; a mutation brings the old key back.
func (d *disk) lose(w *world) {
	w.log("%s loses its disk", d.member.Name)
	w.reach(lostDisk)
	d.entries = nil
	if _, err := Open(State{}, false, d.state.Origin, d.state.Key, d.state.Serial); err != nil && !w.mutation.sameKey {
		d.lost = true
		d.state.Key += "'"
	}
	d.state = New(d.state.Origin, d.state.Key, d.state.Role)
}

// write makes a record durable. It is false if the process dies before or after.
func (d *disk) write(w *world, next State) bool {
	if next.Serial == d.state.Serial {
		return true
	}
	if !w.healed && w.in(w.plan.crash) {
		if w.n(2) == 0 {
			w.log("%s dies before its write", d.member.Name)
			return false
		}
		d.state = next
		w.restorable(false)
		w.log("%s dies after its write", d.member.Name)
		return false
	}
	d.state = next
	w.restorable(false)
	return true
}

// receive does what a member is asked for. The publisher's signature on its own
// messages is not modelled: nobody else sends them.
func (d *disk) receive(w *world, m *message) {
	if d.lost && m.work != ask {
		return
	}
	switch m.work {
	case ask:
		d.answer(w, m)
	case fetch:
		if d.entries.has(w.history.block(m.tree)) {
			w.messages = append(w.messages, &message{work: fetched, start: m.start, life: m.life, disk: d, tree: m.tree})
		}
	case submitTo:
		a := *m
		a.work = submitted
		a.cosigned, a.refusal = d.submit(w, m.signed, m.old, m.start.entries)
		w.messages = append(w.messages, &a)
	}
}

func (d *disk) answer(w *world, m *message) {
	a := *m
	a.work = answer
	var err error
	next := d.state
	evidence := computed{w.history, d.entries}
	switch req := m.request.(type) {
	case Look:
		var p Promise
		next, p, err = d.state.Look(req)
		a.promise = &p
	case Prepare:
		var p Promise
		next, p, err = d.state.Prepare(req)
		a.promise = &p
	case Stage:
		b := w.history.block(req.Tree)
		if d.entries.has(w.history.at(b, int32(req.From))) {
			d.entries.store(w.history, b, int32(req.From))
			evidence.e = d.entries
		}
		req.Evidence = evidence
		if next, a.reply, err = d.state.Stage(req); err == nil && !d.entries.has(w.history.block(next.Staged.Tree)) {
			w.breaks("staged is durable", "%s has staged %v without its entries", d.member.Name, next.Staged.Tree)
		}
	case Commit:
		if !d.trusts(req.Signed) {
			err = refuse(Malformed, "unknown key")
			break
		}
		req.Evidence = evidence
		next, a.reply, err = d.state.Commit(req)
		a.cosigned = err == nil && !d.lost
	case Keep:
		req.Evidence = evidence
		next, a.reply, err = d.state.Keep(req)
	case Confirm:
		next, a.reply, err = d.state.Confirm(req)
	}
	if !d.write(w, next) {
		return
	}
	if err != nil {
		a.refusal = err.(*Refusal)
	}
	if a.cosigned {
		w.cosign(d)
	}
	w.messages = append(w.messages, &a)
}

// submit is add-checkpoint, and add-entries for a mirror that can get the entries.
func (d *disk) submit(w *world, signed Signed, old int64, source entries) (cosigned bool, r *Refusal) {
	if !d.trusts(signed) {
		return false, refuse(Malformed, "unknown key")
	}
	next, _, err := d.state.AddCheckpoint(AddCheckpoint{Old: old, Signed: signed, Proof: w.history})
	if err != nil {
		return false, err.(*Refusal)
	}
	if !d.write(w, next) {
		return false, refuse(Malformed, "died")
	}
	if d.state.Role == Witness {
		w.cosign(d)
		return true, nil
	}
	b := w.history.block(signed.Tree)
	if !source.has(b) {
		return false, refuse(Behind, "no entries")
	}
	d.entries.store(w.history, b, 0)
	next, _, err = d.state.Advance(Advance{Signed: signed, Evidence: computed{w.history, d.entries}})
	if err != nil {
		return false, err.(*Refusal)
	}
	if !d.write(w, next) {
		return false, refuse(Malformed, "died")
	}
	w.cosign(d)
	return true, nil
}

// trusts tells whether the log's signature verifies by a key that the disk knows.
func (d *disk) trusts(s Signed) bool { return len(s.Note) > 0 && int(s.Note[0])&d.keys != 0 }
