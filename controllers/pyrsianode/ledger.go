package pyrsianode

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// maxPeers bounds how many peers a node says that it has.
	maxPeers = 1 << 20
	// maxPeerID bounds what a node says its peer ID is.
	maxPeerID = 128
)

// report is the answer of one pod and the operator's judgement of it.
type report struct {
	pod        string
	nodeIPs    []string // of its Kubernetes node
	peerID     string
	key        string
	checkpoint *ledger.Checkpoint // verified; nil if the pod has none yet
	reason     string             // why it is not verified: a reason, or the condition of an alarm
	message    string
	alarms     []string // conditions
	peers      int32
	newest     string // the last key to which it proves that the ledger was handed over
}

// ledger asks the ready pods for their ledgers, and keeps what verifies: of a
// publisher the newest checkpoint, the floor below which it must not fall; of
// mirrors the oldest, so that all have what it covers. It does not wait for all
// pods to be ready: a Kubernetes node that is down must not hide a fork.
func (r *Reconciler) ledger(ctx context.Context, in *work) (time.Duration, error) {
	n := in.PyrsiaNode
	const condition = v1alpha1.ConditionLedgerVerified
	if n.Status.Nodes == nil {
		return 0, nil
	}
	pods, err := r.Nodes.ReadyPods(ctx, n)
	if err != nil {
		return 0, err
	}
	if len(pods) == 0 {
		status.SetWaiting(n, condition, v1alpha1.ReasonPodsNotReady, "waiting for a pod to be ready")
		return 0, nil
	}
	v, err := r.Nodes.Visit(n, nodeclient.ToPoll)
	if err != nil {
		return pollBusy + rand.N(pollBusy), nil // what was found before stands
	}
	defer v.End()
	reports, err := r.poll(ctx, v, pods, pinnedKey(n, in.Inputs))
	if err != nil {
		return 0, err
	}
	record(n, reports)
	recordRotation(n, r.Now())
	if err := r.endRotation(ctx, n); err != nil {
		return 0, err
	}
	recordAddresses(n, reports, in.Outside)
	recordPeers(n, reports)
	setAlarms(n, reports)
	if worst := worstOf(reports); worst != nil {
		message := fmt.Sprintf("pod %s: %s", worst.pod, worst.message)
		switch worst.reason {
		case v1alpha1.ReasonNodeUnreachable, v1alpha1.ReasonNoCheckpoint:
			status.SetWaiting(n, condition, worst.reason, message)
		case v1alpha1.ReasonKeyChanged:
			status.SetFailed(n, condition, worst.reason, message)
			if n.Spec.Role == v1alpha1.RolePublisher {
				return 0, reconcile.TerminalError(fmt.Errorf("%s", message))
			}
			// A mirror's pod may learn yet to whom the ledger was handed over.
		default:
			status.SetRefused(n, condition, worst.reason, message)
		}
		return 0, nil
	}
	overlap, err := r.overlapping(ctx, n)
	if err != nil {
		return 0, err
	}
	status.SetDone(n, condition, v1alpha1.ReasonVerified, "The ledger carries the pinned key's signature and extends what was verified before"+overlap)
	return 0, nil
}

// poll asks all pods, a bounded number in parallel.
func (r *Reconciler) poll(ctx context.Context, v *nodeclient.Visit, pods []corev1.Pod, pinned string) ([]report, error) {
	n := v.Node
	floor, err := verifiedBefore(n)
	if err != nil {
		return nil, err
	}
	expected, err := r.expectedKeys(ctx, n)
	if err != nil {
		return nil, err
	}
	var since int64
	if floor != nil {
		since = floor.Tree.N
	}
	reports := make([]report, len(pods)) // each goroutine owns one
	var group errgroup.Group
	group.SetLimit(nodeclient.PollsAtOnce)
	for i, pod := range pods {
		group.Go(func() error {
			reports[i] = report{pod: pod.Name, reason: v1alpha1.ReasonNodeUnreachable, message: "its control API does not answer"}
			var status *control.Status
			err := v.Ask(ctx, pod, func(ctx context.Context, c *control.Client) (err error) {
				status, err = c.Status(ctx, since)
				return err
			})
			if err != nil {
				return nil // the report says so; the cause may differ each time
			}
			status.Alarms = unacknowledged(n, status.Alarms, expected, r.Now())
			reports[i] = judge(n.Spec.Role, pinned, floor, status)
			reports[i].pod, reports[i].nodeIPs = pod.Name, hostIPsOf(&pod)
			return nil
		})
	}
	return reports, group.Wait()
}

// verifiedBefore is the checkpoint in the PyrsiaNode's status, if any.
func verifiedBefore(n *v1alpha1.PyrsiaNode) (*ledger.Checkpoint, error) {
	if n.Status.Ledger == nil || n.Status.Ledger.Checkpoint == "" {
		return nil, nil
	}
	v, err := ledger.NewVerifier(n.Status.Ledger.Key)
	if err != nil {
		return nil, err
	}
	c, err := ledger.VerifyCheckpoint(v, []byte(n.Status.Ledger.Checkpoint))
	if err != nil {
		return nil, fmt.Errorf("status.ledger of %s: %w", n.Name, err)
	}
	return &c, nil
}

// judge verifies what a pod says of its ledger. pinned is empty before a
// publisher's key is known; floor is what was verified before.
func judge(role v1alpha1.Role, pinned string, floor *ledger.Checkpoint, status *control.Status) report {
	out := report{key: strings.TrimSpace(status.Ledger.Key)}
	if pinned == "" {
		pinned = out.key
	}
	v, said, err := verifiers(pinned, status.Ledger)
	if err != nil {
		out.reason, out.message = v1alpha1.ReasonBadSignature, "it tells no valid ledger key"
		return out
	}
	// The ledger may have been handed over since the key was pinned; or the pod
	// was started with the key before, and its checkpoint tells.
	waits := role == v1alpha1.RoleMirror && status.Ledger.Checkpoint == "" && said.Origin() == v.Origin()
	if !v.Trusts(out.key) && !said.Trusts(pinned) && !waits { // a mirror's pod has no proof of a rotation before its first checkpoint
		out.reason = v1alpha1.ReasonKeyChanged
		out.message = "its ledger has another key than the one pinned in status.ledger.key, and no rotation leads to it: put the signing key back and restart the pod; to rotate it give both keys first; for a new ledger make a new PyrsiaNode"
		return out
	}
	if !v.Trusts(out.key) {
		out.key = strings.TrimSpace(pinned)
	}
	out.newest = v.Newest()
	out.peers = int32(min(max(status.Peers, 0), maxPeers))
	out.alarms = conditionsOf(status.Alarms)
	if len(status.PeerID) <= maxPeerID && isBase58(status.PeerID) {
		out.peerID = status.PeerID
	}
	if status.Ledger.Checkpoint == "" {
		if role == v1alpha1.RolePublisher && floor != nil && floor.Tree.N > 0 {
			out.reason, out.message = v1alpha1.ConditionLedgerRolledBack, rolledBack(0, floor.Tree.N)
			return out
		}
		out.reason, out.message = v1alpha1.ReasonNoCheckpoint, "waiting for the first checkpoint of the ledger"
		return out
	}
	if role == v1alpha1.RoleMirror { // which says what it was given, not what it has followed to
		out.key = signedBy(v, pinned, status.Ledger)
	}
	out = judgeCheckpoint(out, role, v, floor, status.Ledger)
	if out.reason == "" {
		out.reason, out.message = alarmOf(out.alarms)
	}
	return out
}

// signedBy is the key that signed a checkpoint, of those that are trusted: the
// pinned one as long as it signs, else the first that follows.
func signedBy(v *ledger.Verifier, pinned string, got control.LedgerStatus) string {
	keys := []string{strings.TrimSpace(pinned)}
	for _, r := range got.Rotations {
		if e, err := ledger.ParseRotation([]byte(r.Entry)); err == nil && v.Trusts(e.Key) {
			keys = append(keys, e.Key)
		}
	}
	for _, key := range keys {
		if alone, err := ledger.NewVerifier(key); err == nil {
			if _, err := ledger.VerifyCheckpoint(alone, []byte(got.Checkpoint)); err == nil {
				return key
			}
		}
	}
	return keys[0] // none: it is refused
}

// verifiers trust what a pod proves to follow on the pinned key, and on the
// key that it says it has.
func verifiers(pinned string, got control.LedgerStatus) (v, said *ledger.Verifier, err error) {
	if v, err = ledger.NewVerifier(pinned); err != nil {
		return nil, nil, err
	}
	if said, err = ledger.NewVerifier(got.Key); err != nil {
		return nil, nil, err
	}
	var rotations []ledger.Rotation
	for _, r := range got.Rotations {
		rotations = append(rotations, ledger.Rotation(r))
	}
	return v.WithAll(rotations), said.WithAll(rotations), nil
}

func judgeCheckpoint(out report, role v1alpha1.Role, v *ledger.Verifier, floor *ledger.Checkpoint, got control.LedgerStatus) report {
	checkpoint, err := ledger.VerifyCheckpoint(v, []byte(got.Checkpoint))
	if err != nil {
		out.reason, out.message = v1alpha1.ReasonBadSignature, "its checkpoint is not signed by the pinned key"
		return out
	}
	if floor != nil && checkpoint.Tree.N < floor.Tree.N {
		if role == v1alpha1.RolePublisher {
			out.reason, out.message = v1alpha1.ConditionLedgerRolledBack, rolledBack(checkpoint.Tree.N, floor.Tree.N)
			return out
		}
		// A mirror may be new and still catching up: the others prove that
		// they extend what it has, once that is what all have.
		out.checkpoint = &checkpoint
		return out
	}
	if floor != nil {
		err := ledger.VerifyConsistency(*floor, checkpoint, got.Consistency)
		if err != nil && !(role == v1alpha1.RoleMirror && cameBack(v, floor, checkpoint)) {
			out.reason = v1alpha1.ConditionLedgerForked
			out.message = "its ledger does not extend the one verified before, in status.ledger.checkpoint: two histories were signed; do not trust this ledger before you know why"
			return out
		}
	}
	out.checkpoint = &checkpoint
	return out
}

// cameBack tells whether what was verified of a mirror was signed by keys alone that had
// handed the ledger over to the one that signs now. Then the holder of such a key had
// misled it until it was given the publisher's; its pods keep evidence of it.
func cameBack(v *ledger.Verifier, floor *ledger.Checkpoint, now ledger.Checkpoint) bool {
	newest, err := ledger.NewVerifier(v.Newest())
	if err != nil {
		return false
	}
	_, before := ledger.VerifyCheckpoint(newest, floor.Signed)
	_, after := ledger.VerifyCheckpoint(newest, now.Signed)
	return before != nil && after == nil
}

func rolledBack(got, want int64) string {
	return fmt.Sprintf("its ledger has %d blocks, but %d were verified before: its disk was rolled back; restore the newest copy of its data", got, want)
}

func isBase58(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !strings.ContainsRune("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", c)
	})
}

// record keeps what was verified in the status.
func record(n *v1alpha1.PyrsiaNode, reports []report) {
	verified := slices.DeleteFunc(slices.Clone(reports), func(r report) bool {
		return r.reason != "" && r.reason != v1alpha1.ReasonNoCheckpoint && r.reason != v1alpha1.ConditionLedgerStale
	})
	if len(verified) == 0 {
		return
	}
	if n.Spec.Role == v1alpha1.RolePublisher && verified[0].peerID != "" {
		n.Status.PeerID = verified[0].peerID
		n.Status.Bootstrap = []string{desired.BootstrapAddress(n, verified[0].peerID)}
	}
	if n.Status.Ledger == nil {
		n.Status.Ledger = &v1alpha1.LedgerStatus{Key: verified[0].key}
	}
	if len(verified) < len(reports) {
		return // what all have is not known
	}
	if newest := verified[0].newest; !slices.ContainsFunc(verified, func(r report) bool { return r.newest != newest || r.checkpoint == nil }) {
		n.Status.Ledger.NewestKey = newest
	}
	key := verified[0].key
	handedOver := n.Status.Ledger.Key != key && !slices.ContainsFunc(verified, func(r report) bool { return r.key != key || r.checkpoint == nil })
	if handedOver { // which each of them has proven
		n.Status.Ledger.Key = key
	}
	oldest := slices.MinFunc(verified, func(a, b report) int { return cmp.Compare(a.size(), b.size()) })
	if oldest.key != n.Status.Ledger.Key {
		return // some have followed to another key, others have not yet
	}
	if oldest.checkpoint == nil || oldest.size() == n.Status.Ledger.Size && n.Status.Ledger.Checkpoint != "" && !handedOver {
		return // the same ledger, perhaps signed again: no news
	}
	n.Status.Ledger.Size = oldest.checkpoint.Tree.N
	n.Status.Ledger.RootHash = oldest.checkpoint.Tree.Hash.String()
	n.Status.Ledger.Checkpoint = string(oldest.checkpoint.Signed)
	n.Status.Ledger.SignedAt = nil
	if at := oldest.checkpoint.Time; !at.IsZero() {
		n.Status.Ledger.SignedAt = new(metav1.NewTime(at))
	}
}

// recordAddresses keeps where nodes outside of the cluster join.
func recordAddresses(n *v1alpha1.PyrsiaNode, reports []report, o desired.Outside) {
	var out []string
	for _, r := range reports {
		out = append(out, o.Multiaddrs(r.nodeIPs, r.peerID)...)
	}
	if len(out) > 0 || o.Port == 0 { // else no pod answers now
		n.Status.Addresses = out[:min(len(out), maxAddresses)]
	}
}

func (r report) size() int64 {
	if r.checkpoint == nil {
		return 0
	}
	return r.checkpoint.Tree.N
}

// worstOf is the gravest report that is not verified; nil if all are.
func worstOf(reports []report) *report {
	grave := []string{v1alpha1.ReasonKeyChanged, v1alpha1.ConditionLedgerForked, v1alpha1.ConditionLedgerRolledBack, v1alpha1.ReasonBadSignature, v1alpha1.ConditionLedgerStale, v1alpha1.ReasonNodeUnreachable, v1alpha1.ReasonNoCheckpoint}
	for _, reason := range grave {
		if i := slices.IndexFunc(reports, func(r report) bool { return r.reason == reason }); i >= 0 {
			return &reports[i]
		}
	}
	return nil
}
