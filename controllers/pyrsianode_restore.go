package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// restoreContainerd puts containerd's own set-up back on the Kubernetes nodes
// that have lost their mirror, and at paths that are not the spec's any more;
// everywhere when containerd is not managed any more. Until a place is done the
// status keeps it.
//
// The workload is applied before: a path that changes is set up at the new place
// first, so that there is no moment at which pulls go around the mirror.
func (r *PyrsiaNodeReconciler) restoreContainerd(in *nodeWork) step[*v1alpha1.PyrsiaNode] {
	return func(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
		if n.Spec.Role != v1alpha1.RoleMirror || in.mirrors == nil {
			return 0, nil
		}
		if len(n.Status.Containerd) > 0 {
			pods, err := r.Nodes.pods(ctx, n)
			if err != nil {
				return 0, err
			}
			if place := fallenOut(n, pods, in.mirrors.Status); place != nil {
				return r.restorePlace(ctx, n, in.podInputs, *place, func() bool { return fallenOut(n, pods, in.mirrors.Status) != nil })
			}
		}
		meta.RemoveStatusCondition(n.Conditions(), v1alpha1.ConditionContainerdNotRestored)
		// Whatever the status says: a cache that was behind may have had the clean-up
		// made once more, and one that died in restorePlace has left it.
		if err := deleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", cleanupName(n)); err != nil {
			return 0, err
		}
		if err := r.settle(ctx, n, in); err != nil {
			return 0, err
		}
		if !managesContainerd(n) && len(n.Status.Containerd) == 0 && in.mirrors.Status.DesiredNumberScheduled == 0 {
			return 0, r.release(ctx, n)
		}
		return 0, nil
	}
}

func managesContainerd(n *v1alpha1.PyrsiaNode) bool {
	return n.Spec.Role == v1alpha1.RoleMirror && mirrorSpec(n).Containerd != v1alpha1.ContainerdUnmanaged
}

// recordSetup keeps in the status where pods of the mirror set containerd up:
// each Kubernetes node that one was placed on, for it may do so at any moment.
// A mirror of v0.1.0 that is not to do so any more may have left something where
// its pods are.
func recordSetup(n *v1alpha1.PyrsiaNode, pods []corev1.Pod) {
	unrecorded := controllerutil.ContainsFinalizer(n, containerdFinalizer) && len(n.Status.Containerd) == 0
	if n.Spec.Role != v1alpha1.RoleMirror || !managesContainerd(n) && !unrecorded {
		return
	}
	path := mirrorSpec(n).ContainerdConfigPath
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

// place is a path on some Kubernetes nodes.
type place struct {
	path  string
	nodes []string // empty at a deletion: wherever the spec places the mirror
	// abandoned are nodes without a mirror: its data goes too, and no pod of the
	// mirror may come while that is done. Not so where only the path has changed.
	abandoned bool
}

// cleanupNodes bounds those of one clean-up: its DaemonSet names them all.
const cleanupNodes = 500

// fallenOut is a place where the mirror has set containerd up and should not
// have; nil if there is none, or that is not certain yet. While the pods are
// replaced a node may be without one for a moment: it counts as abandoned only
// when each node that should have a pod has one.
func fallenOut(n *v1alpha1.PyrsiaNode, pods []corev1.Pod, set appsv1.DaemonSetStatus) *place {
	wanted := ""
	if managesContainerd(n) {
		wanted = mirrorSpec(n).ContainerdConfigPath
	}
	here, settled, rolled := map[string]bool{}, true, true
	alive := map[string]bool{}
	for _, p := range pods {
		node := nodeOf(p)
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
			return &place{path: s.Path, nodes: without[:min(len(without), cleanupNodes)], abandoned: true}
		}
		if rolled && s.Path != wanted && len(with) > 0 {
			return &place{path: s.Path, nodes: with[:min(len(with), cleanupNodes)]}
		}
	}
	return nil
}

// nodeOf is the Kubernetes node of a DaemonSet's pod, also of one that waits to
// be placed there.
func nodeOf(p corev1.Pod) string {
	a := p.Spec.Affinity
	if p.Spec.NodeName != "" || a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return p.Spec.NodeName
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// restorePlace brings the clean-up of one place further, and asks in the end whether
// there is more to be done. Dying at any point is repaired by the next call, which
// looks at what is there.
func (r *PyrsiaNodeReconciler) restorePlace(ctx context.Context, n *v1alpha1.PyrsiaNode, in podInputs, at place, more func() bool) (time.Duration, error) {
	live, err := r.applyDaemonSet(ctx, n, cleanupDaemonSet(n, in, at))
	if message := cleanupRefused(n, err); message != "" {
		raiseNotRestored(n, "CleanupRefused", message)
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
	forget(n, at.path, slices.DeleteFunc(slices.Clone(at.nodes), func(node string) bool { return slices.Contains(left, node) }))
	if len(left) > 0 {
		raiseNotRestored(n, "CleanupNotDone", fmt.Sprintf(
			"%s, where this mirror is no more, do not put containerd's own set-up back in %s: see the pods of DaemonSet %s; it is tried until it is done", some(left), at.path, cleanupName(n)))
		return 5 * cleanupPoll, nil
	}
	if !managesContainerd(n) && len(n.Status.Containerd) == 0 {
		// First: once the status is empty, nothing tells what has to be done.
		if err := r.release(ctx, n); err != nil {
			return 0, err
		}
	}
	if !more() {
		return pollBusy, nil // the clean-up goes when the status is written: else it would be made once more
	}
	return pollBusy, deleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", cleanupName(n))
}

// notRestored are the nodes on which no pod of the clean-up is ready yet. One is
// when its work is done. A node that has left the cluster is none of them: the
// DaemonSet has no pod to run there.
func (r *PyrsiaNodeReconciler) notRestored(ctx context.Context, n *v1alpha1.PyrsiaNode, set *appsv1.DaemonSet, at place) ([]string, error) {
	pods, err := r.Nodes.podsOf(ctx, n, "cleanup")
	if err != nil {
		return nil, err
	}
	left := slices.Clone(at.nodes)
	for _, p := range pods {
		if metav1.IsControlledBy(&p, set) && p.DeletionTimestamp == nil && p.Annotations[annotationPath] == at.path && isReady(p) {
			left = slices.DeleteFunc(left, func(node string) bool { return node == p.Spec.NodeName })
		}
	}
	if len(at.nodes)-len(left) >= int(set.Status.DesiredNumberScheduled) {
		return nil, nil
	}
	return left, nil
}

// raiseNotRestored raises the alarm. Of messages from outside, which differ from
// one attempt to the next, the first one stays.
func raiseNotRestored(n *v1alpha1.PyrsiaNode, reason, message string) {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionContainerdNotRestored)
	if c == nil || c.Reason != reason || c.ObservedGeneration != n.Generation || reason != "CleanupRefused" {
		setDone(n, v1alpha1.ConditionContainerdNotRestored, reason, message)
	}
}

// cleanupRefused says why the API server takes no clean-up, if it refuses it by
// a policy or a quota: that may last, and somebody has to do something.
func cleanupRefused(n *v1alpha1.PyrsiaNode, err error) string {
	_, foreign := errors.AsType[*foreignObjectError](err)
	if err == nil || !foreign && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) && !apierrors.IsInternalError(err) && !apierrors.IsBadRequest(err) {
		return ""
	}
	return fmt.Sprintf("containerd's own set-up cannot be put back, for the API server refuses the DaemonSet %s that does it: %v: have the policy or quota admit it", cleanupName(n), err)
}

// release lets the PyrsiaNode go without a clean-up.
func (r *PyrsiaNodeReconciler) release(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	if !controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return nil
	}
	patched := n.DeepCopy() // the answer to the patch overwrites it, and n has a status to be written
	controllerutil.RemoveFinalizer(patched, containerdFinalizer)
	err := r.Client.Patch(ctx, patched, unlessChanged(n.DeepCopy()))
	if client.IgnoreNotFound(err) != nil {
		return wrap(err, "removing the finalizer")
	}
	n.Finalizers, n.ResourceVersion = patched.Finalizers, patched.ResourceVersion
	return nil
}

// some names a few Kubernetes nodes, and counts the rest.
func some(nodes []string) string {
	const few = 3
	out := strings.Join(nodes[:min(len(nodes), few)], ", ")
	if more := len(nodes) - few; more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	if len(nodes) == 1 {
		return "the Kubernetes node " + out
	}
	return "the Kubernetes nodes " + out
}
