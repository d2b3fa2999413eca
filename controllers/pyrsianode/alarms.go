package pyrsianode

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// advice says of each alarm what is wrong with a pod and what to do. The node's
// own words are not repeated: they may be anything.
var advice = map[string]string{
	v1alpha1.ConditionLedgerForked:       "it keeps evidence that the publisher signed two ledgers that contradict each other: see 'pyrsia evidence' in the pod; do not trust this ledger before you know why, and then set spec.acknowledgedAt",
	v1alpha1.ConditionLedgerRolledBack:   "it keeps evidence that the publisher signed a smaller ledger than before: see 'pyrsia evidence' in the pod; restore the newest copy of the publisher's data, or set spec.publisher.restoreFrom; if its clock was wrong, put it right; then set spec.acknowledgedAt",
	v1alpha1.ConditionLedgerKeyMisused:   "it keeps evidence that somebody else has a key of the ledger: a retired key signs on, or one key names two that follow it; see 'pyrsia evidence' in the pod; it follows the publisher alone, or neither of two until the publisher's is pinned; set spec.acknowledgedAt once you have looked",
	v1alpha1.ConditionLedgerKeyChanged:   "the ledger was handed over to another key, which it follows, and which spec.publisher.keyGeneration of no publisher in its namespace has asked for: ask the publisher whether it is its own; then set spec.network.ledgerKey to it, or spec.acknowledgedAt",
	v1alpha1.ConditionLedgerStale:        "the publisher has not signed the ledger for longer than it should: see whether it runs, and whether this pod reaches it or another mirror",
	v1alpha1.ConditionDiskFull:           "the disk of its data has hardly any room left: give a publisher a larger volume; a mirror a smaller spec.cacheSize, or another spec.storage.hostPath",
	v1alpha1.ConditionContentUnavailable: "it refused pulls in the last ten minutes, because no node within its reach had the content of images that are on the ledger: see whether the publisher runs and this pod reaches it; its log names the images, and who had them",
	v1alpha1.ConditionVerificationFailed: "content on its disk was not what its digest says, in the last hour; it was put aside and is fetched again: see whether the disk fails, and 'pyrsia fsck'",
}

// endedReasons are those of the events that tell the end of an alarm.
var endedReasons = map[string]string{
	v1alpha1.ConditionLedgerForked:          v1alpha1.ReasonLedgerForkedEnded,
	v1alpha1.ConditionLedgerRolledBack:      v1alpha1.ReasonLedgerRolledBackEnded,
	v1alpha1.ConditionLedgerKeyMisused:      v1alpha1.ReasonLedgerKeyMisusedEnded,
	v1alpha1.ConditionLedgerKeyChanged:      v1alpha1.ReasonLedgerKeyChangedEnded,
	v1alpha1.ConditionLedgerStale:           v1alpha1.ReasonLedgerStaleEnded,
	v1alpha1.ConditionDiskFull:              v1alpha1.ReasonDiskFullEnded,
	v1alpha1.ConditionContentUnavailable:    v1alpha1.ReasonContentUnavailableEnded,
	v1alpha1.ConditionVerificationFailed:    v1alpha1.ReasonVerificationFailedEnded,
	v1alpha1.ConditionContainerdNotRestored: v1alpha1.ReasonContainerdNotRestoredEnded,
	v1alpha1.ConditionNotAllowed:            v1alpha1.ReasonNotAllowedEnded,
}

// unacknowledged are the alarms that were not acknowledged yet: evidence that the
// node saw after the PyrsiaNode's acknowledgedAt, and unexpected keys. Alarms that
// end by themselves cannot be acknowledged.
func unacknowledged(n *v1alpha1.PyrsiaNode, alarms []control.Alarm, expected []string, now time.Time) (out []control.Alarm) {
	var until time.Time
	if at := n.Spec.AcknowledgedAt; at != nil {
		until = at.Time
		if until.After(now) {
			until = now
		}
	}
	for _, a := range alarms {
		acknowledged := !a.Since.IsZero() && !a.Since.After(until)
		asked := a.Kind == control.AlarmLedgerKeyChanged && len(a.Keys) > 0 &&
			!slices.ContainsFunc(a.Keys, func(key string) bool { return !slices.Contains(expected, key) })
		if !acknowledged && !asked {
			out = append(out, a)
		}
	}
	return out
}

// conditionsOf are the conditions of the alarms that a node raises.
func conditionsOf(alarms []control.Alarm) (out []string) {
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
		case v1alpha1.ConditionLedgerForked, v1alpha1.ConditionLedgerRolledBack, v1alpha1.ConditionLedgerStale:
			return condition, advice[condition]
		}
	}
	return "", ""
}

// setAlarms keeps the conditions of the alarms: what the pods raise, and what
// the operator itself has found of their ledgers. Pods that do not answer leave
// them as they are.
func setAlarms(n *v1alpha1.PyrsiaNode, reports []report) {
	if slices.ContainsFunc(reports, func(r report) bool { return r.reason == v1alpha1.ReasonNodeUnreachable }) {
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
		status.SetDone(n, condition, condition, first)
	}
}

// tellAlarms records as events the alarms that begin and end, and a key that was
// handed over. conditions are those of is.
func (r *Reconciler) tellAlarms(was, is *v1alpha1.PyrsiaNode, conditions []metav1.Condition) {
	for _, name := range append([]string{v1alpha1.ConditionContainerdNotRestored, v1alpha1.ConditionNotAllowed}, v1alpha1.NodeAlarms...) {
		raised := meta.FindStatusCondition(conditions, name)
		switch {
		case raised != nil && !status.IsTrue(was, name):
			r.Recorder.Eventf(is, nil, corev1.EventTypeWarning, name, name, "%s", raised.Message)
		case raised == nil && status.IsTrue(was, name):
			r.Recorder.Eventf(is, nil, corev1.EventTypeNormal, endedReasons[name], name, "the alarm has ended")
		}
	}
	if key := objects.LedgerKey(was); key != "" && is.Spec.Role == v1alpha1.RolePublisher && key != objects.LedgerKey(is) {
		r.Recorder.Eventf(is, nil, corev1.EventTypeNormal, v1alpha1.ReasonKeyRotated, v1alpha1.ConditionKeysReady, "the ledger is signed by the key %s from now on", objects.LedgerKey(is))
	}
}

// recordPeers records the lowest number of connected peers among the pods. In
// large networks it fluctuates: a change of up to a quarter is ignored.
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
