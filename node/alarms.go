package node

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ledgerAge is how long ago the publisher signed the newest checkpoint, by its
// clock and this node's; 0 if it does not say, or its clock is ahead.
func (n *Node) ledgerAge(now time.Time) time.Duration {
	head, ok := n.ledger.Head()
	if !ok || head.Time.IsZero() {
		return 0
	}
	return max(0, now.Sub(head.Time))
}

func (n *Node) stale(now time.Time) bool {
	return n.config.MaxLedgerAge > 0 && n.ledgerAge(now) > n.config.MaxLedgerAge
}

// warnStale logs when the ledger becomes stale, and when it is not any more.
func (n *Node) warnStale() {
	now := time.Now()
	stale := n.stale(now)
	if was := n.wasStale.Swap(stale); was == stale {
		return
	}
	if stale {
		n.log.Error("ALARM: the publisher has not signed the ledger for long: it is down, or this node is kept from it",
			"age", n.ledgerAge(now).Round(time.Second), "bound", n.config.MaxLedgerAge)
		return
	}
	n.log.Info("the ledger is fresh again", "age", n.ledgerAge(now).Round(time.Second))
}

// alarms are what somebody must look at.
func (n *Node) alarms(now time.Time) ([]control.Alarm, error) {
	evidence, err := n.ledger.Evidence()
	if err != nil {
		return nil, err
	}
	first := map[ledger.EvidenceKind]ledger.Evidence{}
	for _, e := range evidence {
		if _, ok := first[e.Kind]; !ok {
			first[e.Kind] = e
		}
	}
	var out []control.Alarm
	// What the others show is a peer's doing, who was refused: no more than a metric.
	if e, ok := first[ledger.EvidenceFork]; ok {
		out = append(out, control.Alarm{Kind: control.AlarmLedgerForked, Message: e.Message})
	}
	if e, ok := first[ledger.EvidenceRollback]; ok {
		out = append(out, control.Alarm{Kind: control.AlarmLedgerRolledBack, Message: e.Message})
	}
	if n.stale(now) {
		out = append(out, control.Alarm{Kind: control.AlarmLedgerStale,
			Message: fmt.Sprintf("the publisher has not signed the ledger for more than %s: it is down, or this node is kept from it", n.config.MaxLedgerAge)})
	}
	return append(out, n.diskAlarms(now)...), nil
}

func (n *Node) registerAlarmMetrics() {
	n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrsia_ledger_age_seconds", Help: "How long ago the publisher signed the newest checkpoint that was verified.",
	}, func() float64 { return n.ledgerAge(time.Now()).Seconds() }))
	for _, kind := range ledger.EvidenceKinds {
		n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "pyrsia_ledger_refused_total",
			Help:        "What was refused of the ledger that peers offered, by kind; 'pyrsia evidence' shows it.",
			ConstLabels: prometheus.Labels{"kind": string(kind)},
		}, func() float64 { return float64(n.ledger.Refused(kind)) }))
	}
}
