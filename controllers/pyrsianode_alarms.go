package controllers

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// advice says of each alarm what is wrong with a pod and what to do. The node's
// own words are not repeated: they may be anything.
var advice = map[string]string{
	v1alpha1.ConditionLedgerForked:       "it keeps evidence that the publisher signed two ledgers that contradict each other: see 'pyrsia evidence' in the pod; do not trust this ledger before you know why",
	v1alpha1.ConditionLedgerRolledBack:   "it keeps evidence that the publisher signed a smaller ledger than before: see 'pyrsia evidence' in the pod; restore the newest copy of the publisher's data, or set spec.publisher.restoreFrom",
	v1alpha1.ConditionLedgerStale:        "the publisher has not signed the ledger for longer than it should: see whether it runs, and whether this pod reaches it or another mirror",
	v1alpha1.ConditionDiskFull:           "the disk of its data has hardly any room left: give a publisher a larger volume; a mirror a smaller spec.cacheSize, or another spec.storage.hostPath",
	v1alpha1.ConditionVerificationFailed: "content on its disk was not what its digest says, in the last hour; it was put aside and is fetched again: see whether the disk fails, and 'pyrsia fsck'",
}

// known are the conditions of the alarms that a node raises.
func known(alarms []control.Alarm) (out []string) {
	for _, condition := range v1alpha1.NodeAlarms {
		if slices.ContainsFunc(alarms, func(a control.Alarm) bool { return string(a.Kind) == condition }) {
			out = append(out, condition)
		}
	}
	return out
}

// alarmOf is the gravest alarm that casts doubt on the ledger.
func alarmOf(alarms []string) (reason, message string) {
	for _, condition := range alarms {
		switch condition {
		case reasonForked, reasonRolledBack, reasonStale:
			return condition, advice[condition]
		}
	}
	return "", ""
}

// setAlarms keeps the conditions of the alarms: what the pods raise, and what
// the operator itself has found of their ledgers. Pods that do not answer leave
// them as they are.
func setAlarms(n *v1alpha1.PyrsiaNode, reports []report) {
	if slices.ContainsFunc(reports, func(r report) bool { return r.reason == reasonUnreachable }) {
		return
	}
	for _, condition := range v1alpha1.NodeAlarms {
		first, count := "", 0
		for _, r := range reports {
			if r.reason != condition && !slices.Contains(r.alarms, condition) {
				continue
			}
			if count++; first == "" {
				first = fmt.Sprintf("pod %s: %s", r.pod, advice[condition])
				if r.reason == condition {
					first = fmt.Sprintf("pod %s: %s", r.pod, r.message)
				}
			}
		}
		if count == 0 {
			meta.RemoveStatusCondition(&n.Status.Conditions, condition)
			continue
		}
		if count > 1 {
			first = fmt.Sprintf("%d pods, the first is %s", count, first)
		}
		setDone(n, condition, condition, first)
	}
}

// recordPeers keeps how many peers the pod has that has the fewest. In large
// networks they come and go: a quarter more or less is no news.
func recordPeers(n *v1alpha1.PyrsiaNode, reports []report) {
	fewest := int32(-1)
	for _, r := range reports {
		if r.peerID != "" && (fewest < 0 || r.peers < fewest) {
			fewest = r.peers
		}
	}
	was := n.Status.Peers
	if fewest >= 0 && (fewest <= 8 || was <= 8 || fewest < was*3/4 || fewest > was*5/4) {
		n.Status.Peers = fewest
	}
}
