package node

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// outageFor is how long unreachable content keeps its alarm raised.
const outageFor = 10 * time.Minute

func (n *Node) stale(now time.Time) bool {
	return n.config.MaxLedgerAge > 0 && n.ledger.Age(now) > n.config.MaxLedgerAge
}

// warnStale logs when the ledger becomes stale, and when it is fresh again.
func (m *mirrorRole) warnStale() {
	now, n := time.Now(), m.n
	stale := n.stale(now)
	if stale == m.wasStale {
		return
	}
	m.wasStale = stale
	if stale {
		n.log.Error("the publisher has not signed the ledger for long: it is down, or this node is kept from it", "alarm", true,
			"age", n.ledger.Age(now).Round(time.Second), "bound", n.config.MaxLedgerAge)
		return
	}
	n.log.Info("the ledger is fresh again", "age", n.ledger.Age(now).Round(time.Second))
}

// refuseStale says why tags are not resolved now: the ledger is stale and the
// configuration refuses tags then. Else nil.
func (n *Node) refuseStale(now time.Time) error {
	if !n.stale(now) {
		return nil
	}
	return fmt.Errorf("the publisher has not signed the ledger for %s, and this mirror resolves no tag by a ledger older than %s: see whether the publisher runs and can be reached, or pull by digest",
		n.ledger.Age(now).Round(time.Minute), n.config.MaxLedgerAge)
}

// alarms are the conditions that a person must look at.
func (n *Node) alarms(now time.Time) ([]control.Alarm, error) {
	evidence, err := n.ledger.Evidence()
	if err != nil {
		return nil, err
	}
	out := n.evidenceAlarms(evidence)
	if n.stale(now) {
		out = append(out, control.Alarm{Kind: control.AlarmLedgerStale,
			Message: fmt.Sprintf("the publisher has not signed the ledger for more than %s: it is down, or this node is kept from it", n.config.MaxLedgerAge)})
	}
	if n.clients != nil && n.clients.mirror.Unavailable(now.Add(-outageFor)) {
		out = append(out, control.Alarm{Kind: control.AlarmContentUnavailable,
			Message: "pulls were refused because no node within reach had the content of images that are on the ledger"})
	}
	return append(out, n.diskAlarms(now)...), nil
}

// alarmOf maps kinds of evidence to the alarm that they raise until it is
// acknowledged. The other kinds show that a peer misbehaved and was refused: they
// are only counted.
var alarmOf = map[ledger.EvidenceKind]control.AlarmKind{
	ledger.EvidenceFork:          control.AlarmLedgerForked,
	ledger.EvidenceRollback:      control.AlarmLedgerRolledBack,
	ledger.EvidenceRetiredKey:    control.AlarmLedgerKeyMisused,
	ledger.EvidenceTwoSuccessors: control.AlarmLedgerKeyMisused,
	ledger.EvidenceNewKey:        control.AlarmLedgerKeyChanged,
}

// evidenceAlarms are the alarms of unacknowledged evidence, each with the message
// of the oldest piece. A new key raises none if it is the one that is pinned here,
// nor at a publisher, whose own keys they are.
func (n *Node) evidenceAlarms(evidence []ledger.Evidence) (out []control.Alarm) {
	for _, e := range evidence {
		kind, ok := alarmOf[e.Kind]
		if !ok || e.Acknowledged || e.Kind == ledger.EvidenceNewKey && (e.Key == n.ledger.Key() || n.config.Role == control.Publisher) {
			continue
		}
		i := slices.IndexFunc(out, func(a control.Alarm) bool { return a.Kind == kind })
		if i < 0 {
			i, out = len(out), append(out, control.Alarm{Kind: kind, Message: e.Message})
		}
		out[i].Since = e.Time
		if e.Kind == ledger.EvidenceNewKey {
			out[i].Keys = append(out[i].Keys, e.Key)
		}
	}
	return out
}

// unacknowledged counts the evidence of a kind of alarm.
func (n *Node) unacknowledged(kind control.AlarmKind) (count float64) {
	evidence, err := n.ledger.Evidence()
	if err != nil {
		return -1
	}
	for _, e := range evidence {
		if alarmOf[e.Kind] == kind && len(n.evidenceAlarms([]ledger.Evidence{e})) > 0 {
			count++
		}
	}
	return count
}

func (n *Node) registerAlarmMetrics() {
	for _, kind := range []control.AlarmKind{control.AlarmLedgerForked, control.AlarmLedgerRolledBack, control.AlarmLedgerKeyMisused, control.AlarmLedgerKeyChanged} {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "pyrsia_ledger_alarms",
			Help:        "Pieces of evidence that nobody has acknowledged, by kind of alarm; -1 if they cannot be read.",
			ConstLabels: prometheus.Labels{"kind": string(kind)},
		}, func() float64 { return n.unacknowledged(kind) }))
	}
	n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrsia_ledger_age_seconds", Help: "How long ago the publisher signed the newest checkpoint that was verified.",
	}, func() float64 { return n.ledger.Age(time.Now()).Seconds() }))
	for _, kind := range ledger.EvidenceKinds {
		n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "pyrsia_ledger_refused_total",
			Help:        "What was refused of the ledger that peers offered, by kind; 'pyrsia evidence' shows it.",
			ConstLabels: prometheus.Labels{"kind": string(kind)},
		}, func() float64 { return float64(n.ledger.Refused(kind)) }))
	}
}
