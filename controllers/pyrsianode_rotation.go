package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// keyOverlap is for how long the old and the new signing key both sign, unless
// Config.KeyOverlap says otherwise: whoever looks once a day sees both.
const keyOverlap = 24 * time.Hour

// recordRotation keeps when the ledger recorded the key that keyGeneration asks
// for, which is that of the publisher's pods.
func recordRotation(n *v1alpha1.PyrsiaNode, now time.Time) {
	_, next := keyGenerations(n)
	l := n.Status.Ledger
	if n.Spec.Role != v1alpha1.RolePublisher || next == 0 || l == nil || l.NewestKey == "" || l.NewestKey == l.Key {
		return
	}
	if r := n.Status.KeyRotation; r == nil || r.Key != l.NewestKey {
		n.Status.KeyRotation = &v1alpha1.KeyRotation{Key: l.NewestKey, RecordedAt: metav1.NewTime(now)}
	}
}

// endRotation lets the new key sign alone, once both have for long enough, and all
// mirrors that the operator knows follow it.
func (r *PyrsiaNodeReconciler) endRotation(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	_, next := keyGenerations(n)
	if next == 0 || n.Status.KeyRotation == nil {
		return nil
	}
	nodes := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing the mirrors that are to follow a key: %w", err)
	}
	if rotated(n, nodes.Items, r.Now(), r.KeyOverlap) {
		n.Status.KeyGeneration = next
	}
	return nil // else it is asked again at the next poll
}

// rotated tells whether the key before has done its work.
func rotated(n *v1alpha1.PyrsiaNode, nodes []v1alpha1.PyrsiaNode, now time.Time, overlap time.Duration) bool {
	rotation, l := n.Status.KeyRotation, n.Status.Ledger
	if l == nil || l.NewestKey != rotation.Key || l.Key == rotation.Key || now.Sub(rotation.RecordedAt.Time) < overlap {
		return false
	}
	return !slices.ContainsFunc(nodes, func(m v1alpha1.PyrsiaNode) bool {
		return isMirrorOf(&m, n) && m.Status.Ledger.NewestKey != rotation.Key
	})
}

// overlapping says until when both keys sign.
func (r *PyrsiaNodeReconciler) overlapping(n *v1alpha1.PyrsiaNode) string {
	rotation, l := n.Status.KeyRotation, n.Status.Ledger
	if rotation == nil || l.NewestKey != rotation.Key || l.Key == rotation.Key {
		return ""
	}
	return fmt.Sprintf("; the key before signs beside the new one until %s, and until all mirrors of this cluster follow", rotation.RecordedAt.Add(r.KeyOverlap).UTC().Format(time.RFC3339))
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

// expectedKeys are those to which keyGeneration of a publisher in this cluster has
// handed its ledger over: somebody has asked for them.
func (r *PyrsiaNodeReconciler) expectedKeys(ctx context.Context, n *v1alpha1.PyrsiaNode) (keys []string, err error) {
	if n.Spec.Role != v1alpha1.RoleMirror {
		return nil, nil
	}
	nodes := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the publishers of this cluster: %w", err)
	}
	for _, p := range nodes.Items {
		if p.Status.KeyRotation != nil {
			keys = append(keys, p.Status.KeyRotation.Key)
		}
	}
	return keys, nil
}
