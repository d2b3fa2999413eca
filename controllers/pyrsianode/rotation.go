package pyrsianode

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// keyOverlap is for how long the old and the new signing key both sign, unless
// Config.KeyOverlap says otherwise: a mirror that looks once a day sees both.
const keyOverlap = 24 * time.Hour

// maxOverlaps is after how many times that long the old key ends although a mirror
// does not follow: it is retired because somebody else may have it, who could
// otherwise keep it valid for ever by holding back one mirror.
const maxOverlaps = 7

// recordRotation keeps when the ledger recorded the key that keyGeneration asks
// for, which is that of the publisher's pods.
func recordRotation(n *v1alpha1.PyrsiaNode, now time.Time) {
	_, next := desired.KeyGenerations(n)
	l := n.Status.Ledger
	if n.Spec.Role != v1alpha1.RolePublisher || next == 0 || l == nil || l.NewestKey == "" || l.NewestKey == l.Key {
		return
	}
	if r := n.Status.KeyRotation; r == nil || r.Key != l.NewestKey {
		n.Status.KeyRotation = &v1alpha1.KeyRotation{Key: l.NewestKey, RecordedAt: metav1.NewTime(now)}
	}
}

// endRotation lets the new key sign alone, once both have for long enough, and the
// mirrors of its namespace follow it.
func (r *Reconciler) endRotation(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	_, next := desired.KeyGenerations(n)
	if next == 0 || n.Status.KeyRotation == nil {
		return nil
	}
	left, err := r.notFollowing(ctx, n)
	if err != nil {
		return err
	}
	if rotated(n, left, r.Now(), r.KeyOverlap) {
		n.Status.KeyGeneration = next
	}
	return nil // else it is asked again at the next poll
}

// rotated tells whether the key before has done its work. left are mirrors that do
// not follow the new one yet.
func rotated(n *v1alpha1.PyrsiaNode, left []string, now time.Time, overlap time.Duration) bool {
	rotation, l := n.Status.KeyRotation, n.Status.Ledger
	if l == nil || l.NewestKey != rotation.Key || l.Key == rotation.Key {
		return false
	}
	both := now.Sub(rotation.RecordedAt.Time)
	return both >= overlap && len(left) == 0 || both >= maxOverlaps*overlap
}

// overlapping says until when both keys sign, and which mirrors do not follow the
// new one.
func (r *Reconciler) overlapping(ctx context.Context, n *v1alpha1.PyrsiaNode) (string, error) {
	rotation, l := n.Status.KeyRotation, n.Status.Ledger
	if rotation == nil || l.NewestKey != rotation.Key {
		return "", nil
	}
	left, err := r.notFollowing(ctx, n)
	if err != nil {
		return "", err
	}
	return tellOverlap(rotation, l.Key != rotation.Key, left, r.KeyOverlap), nil
}

func tellOverlap(rotation *v1alpha1.KeyRotation, both bool, left []string, overlap time.Duration) (out string) {
	at := func(d time.Duration) string { return rotation.RecordedAt.Add(d).UTC().Format(time.RFC3339) }
	if both {
		out = fmt.Sprintf("; the key before signs beside the new one until %s, and until the mirrors of this namespace follow, but not after %s", at(overlap), at(maxOverlaps*overlap))
	}
	if len(left) > 0 {
		out += fmt.Sprintf("; these mirrors do not follow the new key: %s", firstOf(left, maxNamed))
	}
	return out
}

// maxNamed bounds the mirrors that a message names.
const maxNamed = 5

// notFollowing are the mirrors of a publisher that have not followed it to its new
// key.
func (r *Reconciler) notFollowing(ctx context.Context, n *v1alpha1.PyrsiaNode) ([]string, error) {
	nodes := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, nodes, client.InNamespace(n.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the mirrors that are to follow a key: %w", err)
	}
	return left(n, nodes.Items), nil
}

// left names the mirrors of a publisher that keep the previous key in use. Mirrors
// in other namespaces do not count, because their owners could keep it for ever;
// nor does a mirror with an alarm that somebody else has its old key: it cannot
// follow.
func left(publisher *v1alpha1.PyrsiaNode, nodes []v1alpha1.PyrsiaNode) (names []string) {
	for _, m := range nodes {
		misled := status.IsTrue(&m, v1alpha1.ConditionLedgerForked) || status.IsTrue(&m, v1alpha1.ConditionLedgerKeyMisused)
		if m.Namespace == publisher.Namespace && isMirrorOf(&m, publisher) && m.Status.Ledger.NewestKey != publisher.Status.KeyRotation.Key && !misled {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// isMirrorOf tells whether a mirror has verified the ledger of a publisher. One
// that has none yet is given the newest key when it starts.
func isMirrorOf(m, publisher *v1alpha1.PyrsiaNode) bool {
	if m.Spec.Role != v1alpha1.RoleMirror || m.Status.Ledger == nil || !m.DeletionTimestamp.IsZero() {
		return false
	}
	its, err1 := ledger.NewVerifier(m.Status.Ledger.Key)
	ours, err2 := ledger.NewVerifier(publisher.Status.Ledger.Key)
	return err1 == nil && err2 == nil && its.Origin() == ours.Origin() && m.Status.Ledger.Checkpoint != ""
}

// expectedKeys are those to which keyGeneration of a publisher in the mirror's
// namespace has handed its ledger over: they were asked for. A publisher in another
// namespace could ask for any key.
func (r *Reconciler) expectedKeys(ctx context.Context, n *v1alpha1.PyrsiaNode) (keys []string, err error) {
	if n.Spec.Role != v1alpha1.RoleMirror {
		return nil, nil
	}
	nodes := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, nodes, client.InNamespace(n.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the publishers of namespace %s: %w", n.Namespace, err)
	}
	for _, p := range nodes.Items {
		if p.Status.KeyRotation != nil {
			keys = append(keys, p.Status.KeyRotation.Key)
		}
	}
	return keys, nil
}
