package pyrsianode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// restoreContainerd puts containerd's own set-up back on the Kubernetes nodes
// that have lost their mirror, and at paths that are not the spec's any more;
// everywhere when containerd is no longer managed. The status lists a place
// until it is done.
//
// The workload is applied before: a path that changes is set up at the new place
// first, so that there is no moment at which pulls go around the mirror.
func (r *Reconciler) restoreContainerd(ctx context.Context, in *work) (time.Duration, error) {
	n := in.PyrsiaNode
	if n.Spec.Role != v1alpha1.RoleMirror || in.mirrors == nil {
		return 0, nil
	}
	if len(n.Status.Containerd) > 0 {
		pods, err := r.Nodes.Pods(ctx, n)
		if err != nil {
			return 0, err
		}
		if place := fallenOut(n, pods, in.mirrors.Status); place != nil {
			return r.restorePlace(ctx, n, in.Inputs, *place, func() bool { return fallenOut(n, pods, in.mirrors.Status) != nil })
		}
	}
	meta.RemoveStatusCondition(n.Conditions(), v1alpha1.ConditionContainerdNotRestored)
	// Whatever the status says: a cache that was behind may have had the clean-up
	// made once more, and one that died in restorePlace has left it.
	if err := apply.DeleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", desired.CleanupName(n)); err != nil {
		return 0, err
	}
	if err := r.endFormerClaims(ctx, n, in); err != nil {
		return 0, err
	}
	if !desired.ManagesContainerd(n) && len(n.Status.Containerd) == 0 && in.mirrors.Status.DesiredNumberScheduled == 0 {
		return 0, r.removeFinalizer(ctx, n)
	}
	return 0, nil
}

// recordSetup keeps in the status where pods of the mirror set containerd up:
// each Kubernetes node that one was placed on, because it may do so at any
// moment. A mirror of v0.1.0 that no longer does may have left something where
// its pods are.
func recordSetup(n *v1alpha1.PyrsiaNode, pods []corev1.Pod) {
	unrecorded := controllerutil.ContainsFinalizer(n, containerdFinalizer) && len(n.Status.Containerd) == 0
	if n.Spec.Role != v1alpha1.RoleMirror || !desired.ManagesContainerd(n) && !unrecorded {
		return
	}
	path := desired.MirrorSpec(n).ContainerdConfigPath
	for _, p := range pods {
		if p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
			recordPlace(n, path, p.Spec.NodeName)
		}
	}
}

func recordPlace(n *v1alpha1.PyrsiaNode, path, node string) {
	i := slices.IndexFunc(n.Status.Containerd, func(s v1alpha1.ContainerdSetup) bool { return s.Path == path })
	if i < 0 {
		i = len(n.Status.Containerd)
		n.Status.Containerd = append(n.Status.Containerd, v1alpha1.ContainerdSetup{Path: path})
	}
	nodes := &n.Status.Containerd[i].Nodes
	if at, found := slices.BinarySearch(*nodes, node); !found {
		*nodes = slices.Insert(*nodes, at, node)
	}
}

// forget removes from the status what has been put back.
func forget(n *v1alpha1.PyrsiaNode, path string, done []string) {
	for i := range n.Status.Containerd {
		if s := &n.Status.Containerd[i]; s.Path == path {
			s.Nodes = slices.DeleteFunc(s.Nodes, func(node string) bool { return slices.Contains(done, node) })
		}
	}
	n.Status.Containerd = slices.DeleteFunc(n.Status.Containerd, func(s v1alpha1.ContainerdSetup) bool { return len(s.Nodes) == 0 })
}

// cleanupNodes bounds those of one clean-up: its DaemonSet names them all.
const cleanupNodes = 500

// fallenOut is a place where the mirror has set containerd up and should not
// have; nil if there is none, or that is not certain yet. While the pods are
// replaced a node may be without one for a moment: it counts as abandoned only
// when each node that should have a pod has one.
func fallenOut(n *v1alpha1.PyrsiaNode, pods []corev1.Pod, set appsv1.DaemonSetStatus) *desired.Place {
	wanted := ""
	if desired.ManagesContainerd(n) {
		wanted = desired.MirrorSpec(n).ContainerdConfigPath
	}
	here, settled, rolled := map[string]bool{}, true, true
	alive := map[string]bool{}
	for _, p := range pods {
		node := objects.NodeOf(p)
		here[node] = true
		settled = settled && node != ""
		if p.DeletionTimestamp == nil {
			alive[node] = true
		} else {
			rolled = false // it may still set up what it was told to
		}
	}
	settled = settled && len(alive) == int(set.DesiredNumberScheduled)
	rolled = rolled && settled && set.UpdatedNumberScheduled == set.DesiredNumberScheduled && set.NumberReady == set.DesiredNumberScheduled
	for _, s := range n.Status.Containerd {
		var with, without []string
		for _, node := range s.Nodes {
			if here[node] {
				with = append(with, node)
			} else {
				without = append(without, node)
			}
		}
		if settled && len(without) > 0 {
			return &desired.Place{Path: s.Path, Nodes: without[:min(len(without), cleanupNodes)], Abandoned: true}
		}
		if rolled && s.Path != wanted && len(with) > 0 {
			return &desired.Place{Path: s.Path, Nodes: with[:min(len(with), cleanupNodes)]}
		}
	}
	return nil
}

// restorePlace brings the clean-up of one place further, and asks in the end whether
// there is more to be done. Dying at any point is repaired by the next call, which
// looks at what is there.
func (r *Reconciler) restorePlace(ctx context.Context, n *v1alpha1.PyrsiaNode, in desired.Inputs, at desired.Place, more func() bool) (time.Duration, error) {
	live, err := r.applyDaemonSet(ctx, n, desired.CleanupDaemonSet(n, in, at))
	if message := cleanupRefused(n, err); message != "" {
		raiseNotRestored(n, v1alpha1.ReasonCleanupRefused, message)
		return time.Minute, nil
	}
	if err != nil || live == nil {
		return cleanupPoll, err
	}
	left, err := r.notRestored(ctx, n, live, at)
	if err != nil {
		return 0, err
	}
	late := r.Now().Sub(live.CreationTimestamp.Time) > cleanupLimit
	if len(left) > 0 && !late {
		return cleanupPoll, nil
	}
	forget(n, at.Path, slices.DeleteFunc(slices.Clone(at.Nodes), func(node string) bool { return slices.Contains(left, node) }))
	if len(left) > 0 {
		raiseNotRestored(n, v1alpha1.ReasonCleanupNotDone, fmt.Sprintf(
			"%s, where this mirror is no more, do not put containerd's own set-up back in %s: see the pods of DaemonSet %s; it is tried until it is done", some(left), at.Path, desired.CleanupName(n)))
		return 5 * cleanupPoll, nil
	}
	if !desired.ManagesContainerd(n) && len(n.Status.Containerd) == 0 {
		// First: once the status is empty, nothing tells what has to be done.
		if err := r.removeFinalizer(ctx, n); err != nil {
			return 0, err
		}
	}
	if !more() {
		return pollBusy, nil // the clean-up goes when the status is written: else it would be made once more
	}
	return pollBusy, apply.DeleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", desired.CleanupName(n))
}

// notRestored are the nodes on which no pod of the clean-up is ready yet. One is
// when its work is done. A node that has left the cluster is none of them: the
// DaemonSet has no pod to run there.
func (r *Reconciler) notRestored(ctx context.Context, n *v1alpha1.PyrsiaNode, set *appsv1.DaemonSet, at desired.Place) ([]string, error) {
	pods, err := r.Nodes.PodsOf(ctx, n, "cleanup")
	if err != nil {
		return nil, err
	}
	left := slices.Clone(at.Nodes)
	for _, p := range pods {
		if metav1.IsControlledBy(&p, set) && p.DeletionTimestamp == nil && p.Annotations[objects.AnnotationPath] == at.Path && objects.IsReady(p) {
			left = slices.DeleteFunc(left, func(node string) bool { return node == p.Spec.NodeName })
		}
	}
	if len(at.Nodes)-len(left) >= int(set.Status.DesiredNumberScheduled) {
		return nil, nil
	}
	return left, nil
}

// raiseNotRestored raises the alarm. Of messages from outside, which differ from
// one attempt to the next, the first one stays.
func raiseNotRestored(n *v1alpha1.PyrsiaNode, reason, message string) {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionContainerdNotRestored)
	if c == nil || c.Reason != reason || c.ObservedGeneration != n.Generation || reason != v1alpha1.ReasonCleanupRefused {
		status.SetDone(n, v1alpha1.ConditionContainerdNotRestored, reason, message)
	}
}

// cleanupRefused says why the API server takes no clean-up, if it refuses it by
// a policy or a quota: that may last, and somebody has to do something.
func cleanupRefused(n *v1alpha1.PyrsiaNode, err error) string {
	_, foreign := errors.AsType[*apply.ForeignError](err)
	if err == nil || !foreign && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) && !apierrors.IsInternalError(err) && !apierrors.IsBadRequest(err) {
		return ""
	}
	return fmt.Sprintf("containerd's own set-up cannot be put back, for the API server refuses the DaemonSet %s that does it: %v: have the policy or quota admit it", desired.CleanupName(n), err)
}

// removeFinalizer lets the PyrsiaNode go without a clean-up.
func (r *Reconciler) removeFinalizer(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	if !controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return nil
	}
	patched := n.DeepCopy() // the answer to the patch overwrites it, and n has a status to be written
	controllerutil.RemoveFinalizer(patched, containerdFinalizer)
	err := r.Client.Patch(ctx, patched, status.UnlessChanged(n.DeepCopy()))
	if client.IgnoreNotFound(err) != nil {
		return objects.Wrap(err, "removing the finalizer")
	}
	n.Finalizers, n.ResourceVersion = patched.Finalizers, patched.ResourceVersion
	return nil
}

// some names a few Kubernetes nodes, and counts the rest.
func some(nodes []string) string {
	if len(nodes) == 1 {
		return "the Kubernetes node " + nodes[0]
	}
	return "the Kubernetes nodes " + firstOf(nodes, 3)
}
