package pyrsianode

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// taintsAtOnce bounds the Kubernetes nodes that one pass opens to pods.
const taintsAtOnce = 100

// removeTaints takes the start-up taint from the Kubernetes nodes on which the mirror
// is proven, and tells one of which it may not. The right to do so is an
// installation's own choice, and comes with a ValidatingAdmissionPolicy that lets
// the operator do nothing else to a node.
func (r *Reconciler) removeTaints(ctx context.Context, n *v1alpha1.PyrsiaNode, nodes []corev1.Node) (refused string, again time.Duration, err error) {
	if !awaitsProof(n) {
		return "", 0, nil
	}
	removed := 0
	for i := range nodes {
		node := &nodes[i]
		if !slices.ContainsFunc(node.Spec.Taints, notProven) {
			continue
		}
		if ok, err := r.provenBy(ctx, n, node); err != nil || !ok {
			if err != nil {
				return "", 0, err
			}
			continue
		}
		switch err := r.removeTaint(ctx, node); {
		case apierrors.IsForbidden(err):
			return node.Name, 0, nil
		case apierrors.IsInvalid(err), apierrors.IsConflict(err): // its taints have changed
			return "", pollBusy, nil
		case client.IgnoreNotFound(err) != nil:
			return "", 0, objects.Wrap(err, "taking the taint %s from the Kubernetes node %s", desired.TaintNotProven, node.Name)
		}
		if removed++; removed == taintsAtOnce {
			return "", pollBusy, nil
		}
	}
	return "", 0, nil
}

func notProven(t corev1.Taint) bool { return t.Key == desired.TaintNotProven }

// awaitsProof tells whether Kubernetes nodes wait for a mirror.
func awaitsProof(n *v1alpha1.PyrsiaNode) bool {
	return n.Spec.Role == v1alpha1.RoleMirror && n.DeletionTimestamp.IsZero() && desired.MirrorSpec(n).StartupTaint
}

// provenBy tells whether a mirror is proven on a Kubernetes node, and with it all
// others that the node waits for.
func (r *Reconciler) provenBy(ctx context.Context, n *v1alpha1.PyrsiaNode, node *corev1.Node) (bool, error) {
	all := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, all, client.UnsafeDisableDeepCopy); err != nil {
		return false, objects.Wrap(err, "listing the mirrors")
	}
	for i := range all.Items {
		other := &all.Items[i]
		if other.UID != n.UID && (!awaitsProof(other) || !desired.SchedulingOf(other, true).Chooses(node)) {
			continue
		}
		pods, err := r.Nodes.Pods(ctx, other)
		if err != nil || !slices.ContainsFunc(pods, func(p corev1.Pod) bool {
			return p.Spec.NodeName == node.Name && proofOf(other, p) == proofGiven && provenSince(node, p)
		}) {
			return false, err
		}
	}
	return true, nil
}

// provenSince tells whether a pod's proof is of the machine that a Kubernetes node is
// now. One that joins under the name of another finds the pods of that one, and until
// its kubelet has looked at them their status is what it was there.
func provenSince(node *corev1.Node, p corev1.Pod) bool {
	if !p.CreationTimestamp.Before(&node.CreationTimestamp) {
		return true
	}
	running := objects.StatusOf(p.Status.ContainerStatuses, objects.ContainerCanary).State.Running
	return running != nil && !running.StartedAt.Before(&node.CreationTimestamp)
}

// removeTaint takes it off, unless the taints are not those that were seen.
func (r *Reconciler) removeTaint(ctx context.Context, node *corev1.Node) error {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value,omitempty"`
	}
	var tests, removals []operation
	for i := len(node.Spec.Taints) - 1; i >= 0; i-- { // the places of those before stay the same
		if path := fmt.Sprintf("/spec/taints/%d", i); notProven(node.Spec.Taints[i]) {
			tests = append(tests, operation{"test", path + "/key", desired.TaintNotProven})
			removals = append(removals, operation{Op: "remove", Path: path})
		}
	}
	patch, err := json.Marshal(slices.Concat(tests, removals))
	if err != nil {
		return err
	}
	answer := new(corev1.Node) // node is the cache's own
	answer.Name = node.Name
	return r.Client.Patch(ctx, answer, client.RawPatch(types.JSONPatchType, patch))
}
