package quorum

import "fmt"

// world is one run of the simulation: everything is derived from its seed. A step
// delivers a message or is a fault; after each one the claims are checked.
type world struct {
	random
	plan       plan
	history    history
	now        int64
	disks      []*disk // of cosigners: the members that ever were, then outsiders
	starts     []*start
	messages   []*message
	cut        [maxStarts]uint64 // bit by member: no message passes
	facts      facts
	founding   *Founding // until the ledger is founded
	foundation Config    // the first configuration, which thieves' readers go by
	members    int       // members ever made
	images     int32
	rotated    int // 0 the old key of the log signs, 1 both, 2 the new one
	healed     bool
	mutation   mutation
	reached    [milestones]int
	tracing    bool
	trace      []string
	broken     string // the first claim that does not hold
}

const maxStarts = 40

// plan is what a schedule is about, drawn from its seed: a schedule with everything
// at once finds less than many that differ.
type plan struct {
	members, w          int
	nested              bool // W is one member of each half
	outside, outsideK   int  // cosigners that are not ours, and how many a policy wants
	steps               int
	lose, twice, newest int // percent of messages lost, doubled, delivered out of turn
	crash               int // percent of durable writes that crash
	faults              [kinds]int
	base                int32 // blocks signed before the ledger had members
	theft               bool  // somebody else signs with the log's key too
	harsh               bool  // more disks may be lost than the ledger survives
}

// A mutation breaks one rule, to see that the simulation notices.
type mutation struct {
	proposer   func(*Proposer)
	sameKey    bool // a disk that was lost comes back under its old key
	countLines bool // each signature counts, and not each cosigner
	release    bool // an image is released when its time is over
	lateTime   bool // a signature states the time at which it was made
}

func newWorld(seed uint64, m mutation) *world {
	w := &world{random: random(mix(seed)), mutation: m}
	w.draw()
	w.begin()
	return w
}

// begin makes the members, the outsiders and the first publisher.
func (w *world) begin() {
	w.history, w.messages = make(history, 1, 64), make([]*message, 0, 64)
	list := make([]Member, w.plan.members)
	for i := range list {
		list[i] = w.newDisk(Mirror).member
	}
	for i := range w.plan.outside {
		role := Witness
		if i == 1 {
			role = Mirror
		}
		w.newDisk(role).outside = true
	}
	w.founding = &Founding{Config: Config{Version: 1, List: NewList(w.plan.w, list...)}, Tree: w.history.tree(0)}
	if l := &w.founding.Config.List; w.plan.nested {
		half := len(list) / 2
		l.W = Group{K: 2, Groups: []Group{{K: 1, Members: l.W.Members[:half]}, {K: 1, Members: l.W.Members[half:]}}}
		l.R = l.W.Dual()
	}
	w.foundation = w.founding.Config
	var base int32
	for range w.plan.base {
		base = w.history.grow(base, w.newImage())
	}
	if base != 0 {
		w.founding.Tree = w.history.tree(base)
		w.facts.signed = base
	}
	s := &start{}
	w.starts = append(w.starts, s)
	if base != 0 {
		s.own.Signed = Signed{w.history.tree(base), []byte{1}}
		s.entries.store(w.history, base, 0)
	}
	s.boot(w)
	for f := (2*w.plan.w - w.plan.members) - 1; w.plan.theft && f > 0; f-- {
		w.disks[f-1].bad = true
	}
}

func (w *world) newImage() int32 {
	w.images++
	return w.images
}

// draw makes the plan.
func (w *world) draw() {
	p := &w.plan
	p.members = []int{1, 2, 3, 3, 3, 3, 4, 5}[w.n(8)]
	p.w = p.members/2 + 1
	if w.in(15) {
		p.w = 1 + w.n(p.members)
	}
	p.nested = p.members > 1 && w.in(10)
	p.outside = []int{0, 0, 1, 2}[w.n(4)]
	p.outsideK = w.n(p.outside + 1)
	p.steps = 60 + w.n(200)
	p.lose, p.twice, p.newest = []int{0, 3, 15}[w.n(3)], []int{0, 3, 15}[w.n(3)], []int{0, 20, 100}[w.n(3)]
	p.crash = []int{0, 1, 5}[w.n(3)]
	for k := range p.faults {
		p.faults[k] = []int{0, 1, 3, 8}[w.n(4)]
	}
	p.faults[submit] = 5 + w.n(15)
	p.faults[tick] = 3 + w.n(10)
	p.faults[loseDisk] = min(p.faults[loseDisk], 1)
	p.faults[tryNew] = min(p.faults[tryNew], 3)
	if w.in(15) {
		p.base = 1 + int32(w.n(3))
	}
	p.theft, p.harsh = w.in(12), w.in(10)
	p.faults[steal] = 0
	if p.theft {
		// A policy whose quorums share more members than are bad, and stays as it is.
		p.faults[steal], p.faults[change], p.w = 10, 0, p.members/2+1+w.n((p.members+1)/2)
		p.outside, p.outsideK, p.nested = 0, 0, false
	}
}

// run lets the schedule happen, then everything heals.
func (w *world) run() {
	for w.now = 1; w.now < int64(w.plan.steps) && w.broken == ""; w.now++ {
		w.step()
	}
	if w.broken == "" {
		w.restorable(true)
	}
	if w.broken == "" && !w.plan.theft {
		w.heal()
	}
}

func (w *world) step() {
	total := 0
	for _, n := range w.plan.faults {
		total += n
	}
	if len(w.messages) > 0 && w.in(75) {
		w.deliver()
		return
	}
	n := w.n(total)
	for k, weight := range w.plan.faults {
		if n -= weight; n < 0 {
			w.fault(kind(k))
			return
		}
	}
}

// A milestone is something that schedules must reach, or they would show nothing.
type milestone int

const (
	acknowledgement milestone = iota
	restoredTail              // more was restored than was acknowledged
	steppedDown
	movedToBoth
	movedToNew
	foundMisuse // by the key's owner, in a schedule with a thief
	lookedAgain // after a checkpoint that came from ahead
	lostDisk
	signedAgain // the minute's refresh
	othersEntries
	milestones
)

func (w *world) reach(m milestone) { w.reached[m]++ }

// breaks notes the first claim that does not hold.
func (w *world) breaks(claim, format string, args ...any) {
	if w.broken == "" {
		w.broken = claim + ": " + fmt.Sprintf(format, args...)
		w.log("BROKEN %s", w.broken)
	}
}

func (w *world) log(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%4d ", w.now)+fmt.Sprintf(format, args...))
	}
}
