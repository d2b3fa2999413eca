package quorum

import (
	"fmt"
	"strings"
)

// message is something under way: a request, its answer, or a publisher's own work
// that takes time. Those of a process that is gone are void.
type message struct {
	work  work
	start *start
	life  int // of the start
	disk  *disk

	request  Request
	promise  *Promise
	reply    Reply
	refusal  *Refusal
	tree     Tree
	old, at  int64
	cosigned bool
	images   []string
	signed   Signed // of submitTo
}

type work int

const (
	ask     work = iota // a request, to a member
	answer              // and back
	fetch               // the entries of a tree, from a member
	fetched             // and back
	sign                // this and below: work within a publisher
	build
	index
	submitTo  // a checkpoint, to an outsider
	submitted // and back
)

// deliver takes a message and lets it arrive, or be lost, or twice.
func (w *world) deliver() {
	i := 0
	if w.in(w.plan.newest) && !w.healed {
		i = w.n(len(w.messages))
	}
	m := w.messages[i]
	if m.start.paused && (m.work != ask && m.work != fetch && m.work != submitTo) {
		// Nothing happens in a process that stands still. Another message may be
		// delivered by the next step.
		w.messages = append(append(w.messages[:i], w.messages[i+1:]...), m)
		return
	}
	local := m.work == sign || m.work == build || m.work == index
	again := !local && !w.healed && w.in(w.plan.twice)
	if !again {
		w.messages = append(w.messages[:i], w.messages[i+1:]...)
	}
	if !local && !w.healed {
		cut := m.disk != nil && !m.disk.outside && w.cut[m.start.id]>>m.disk.id&1 == 1
		if cut || w.in(w.plan.lose) {
			w.note("lost", m)
			return
		}
	}
	if m.start.life != m.life && m.work != ask && m.work != submitTo {
		return
	}
	w.note("", m)
	switch m.work {
	case ask, fetch, submitTo:
		m.disk.receive(w, m)
	default:
		m.start.receive(w, m)
	}
}

func (w *world) note(how string, m *message) {
	if w.tracing {
		w.log("%s", strings.TrimSpace(how+" "+m.String()))
	}
}

func (m *message) String() string {
	name := "p" + fmt.Sprint(m.start.id)
	to := ""
	if m.disk != nil {
		to = m.disk.member.Name
	}
	switch m.work {
	case ask:
		return fmt.Sprintf("%s > %s %s", name, to, show(m.request))
	case answer:
		what := "ok"
		if m.refusal != nil {
			what = string(m.refusal.Reason) + ": " + m.refusal.Text
		}
		return fmt.Sprintf("%s < %s %s %s", name, to, show(m.request), what)
	}
	return fmt.Sprintf("%s %s %s %v %v", name, []string{"ask", "answer", "fetch", "fetched", "sign", "build", "index", "submit", "submitted"}[m.work], to, m.tree, m.images)
}

func show(r Request) string {
	s := fmt.Sprintf("%T", r)[len("quorum."):]
	switch r := r.(type) {
	case Prepare:
		s += " " + r.Ballot.String()
	case Stage:
		s += fmt.Sprintf(" %v config %d %v from %d", r.Ballot, r.Config.Version, r.Tree, r.From)
	case Commit:
		s += " " + r.Signed.Tree.String()
	case Keep:
		s += fmt.Sprintf(" %v %v", r.Ballot, r.Proven.Tree)
	case Confirm:
		s += fmt.Sprintf(" %v %v round %d", r.Ballot, r.Tree, r.Round)
	}
	return strings.TrimSpace(s)
}
