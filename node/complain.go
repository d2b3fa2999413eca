package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/client"
)

const (
	// complaintInterval is how often it is logged that nothing has changed.
	complaintInterval = time.Minute
	maxProblems       = 16  // in one message
	maxProblemText    = 300 // bytes of one error
)

// complaint is the last log message about a missing ledger.
type complaint struct {
	said   string
	logged time.Time
}

// problems are the places from which the ledger does not come, and why: the
// bootstrap addresses, and the sources that were asked.
func (n *Node) problems() (out []client.Problem) {
	for _, u := range n.host.Unreached() {
		out = append(out, problem(u.Addr, u.Err, u.Since, u.Tries))
	}
	for name, s := range n.failing() {
		out = append(out, problem(name, s.err, s.since, s.fails))
	}
	slices.SortStableFunc(out, func(a, b client.Problem) int { return strings.Compare(a.Source, b.Source) })
	return out[:min(len(out), maxProblems)]
}

func problem(source string, err error, since time.Time, tries int) client.Problem {
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\n", "; "), "?")
	return client.Problem{Source: source, Error: text[:min(len(text), maxProblemText)], Since: since.UTC().Truncate(time.Second), Tries: tries}
}

// noLedger says why the node has no ledger yet.
func (n *Node) noLedger() string {
	problems := n.problems()
	if len(problems) == 0 {
		return fmt.Sprintf("no verified ledger yet: %d nodes of the network are connected, and none has sent it", len(n.host.Peers()))
	}
	var out strings.Builder
	out.WriteString("no verified ledger yet")
	for _, p := range problems {
		fmt.Fprintf(&out, "; %s (tried %d times): %s", p.Source, p.Tries, p.Error)
	}
	return out.String()
}

// complain logs that there is no ledger yet: the first time, when the reason
// changes, and once a minute.
func (m *mirrorRole) complain(now time.Time) {
	var what []string
	problems := m.n.problems()
	for _, p := range problems {
		what = append(what, p.Source+": "+p.Error)
	}
	said := strings.Join(what, "\n")
	c := &m.complaint
	switch age := now.Sub(m.n.started); {
	case len(problems) == 0 && age < complaintInterval:
		return // it is just starting
	case said == c.said && now.Sub(c.logged) < complaintInterval:
		return
	}
	c.said, c.logged = said, now
	m.n.log.Warn("no ledger yet", "peers", len(m.n.host.Peers()), "reason", m.n.noLedger())
}
