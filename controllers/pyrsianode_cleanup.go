package controllers

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// containerdFinalizer keeps a mirror that manages containerd until the
// Kubernetes nodes have their own set-up back.
const containerdFinalizer = "pyrsia.io/containerd"

const (
	// cleanupLimit bounds the clean-up, and podLimit the end of the mirror's pods:
	// a Kubernetes node that is gone must not block the deletion.
	cleanupLimit = 2 * time.Minute
	podLimit     = 30 * time.Second
	cleanupPoll  = 2 * time.Second
)

// hold adds the finalizer before anything is written to a Kubernetes node.
func (r *PyrsiaNodeReconciler) hold(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	if n.Spec.Role != v1alpha1.RoleMirror || mirrorSpec(n).Containerd == v1alpha1.ContainerdUnmanaged ||
		controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return nil
	}
	before := n.DeepCopy()
	controllerutil.AddFinalizer(n, containerdFinalizer)
	return wrap(r.Client.Patch(ctx, n, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})), "adding the finalizer")
}

// cleanup gives the Kubernetes nodes their containerd set-up back. The mirror
// goes first, and its last pod, because they would install it again. Dying at
// any point is repaired by the next call, which looks at what is there.
func (r *PyrsiaNodeReconciler) cleanup(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return 0, nil
	}
	// The cache may still show what is gone already: nothing may be made for that.
	if err := r.applier.live.Get(ctx, client.ObjectKeyFromObject(n), n); err != nil || !controllerutil.ContainsFinalizer(n, containerdFinalizer) || n.DeletionTimestamp.IsZero() {
		return 0, wrap(client.IgnoreNotFound(err), "reading the PyrsiaNode again")
	}
	for _, name := range []string{n.Name, frontendName(n)} {
		if err := deleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", name); err != nil {
			return 0, err
		}
	}
	pods, err := r.Nodes.pods(ctx, n)
	if err != nil {
		return 0, err
	}
	if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return r.stillThere(n, p) }) {
		return cleanupPoll, nil
	}
	live, err := r.applyDaemonSet(ctx, n, cleanupDaemonSet(n, podInputs{image: r.NodeImage}))
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause): // nothing can be made there any more
		r.status.recorder.Eventf(n, nil, corev1.EventTypeWarning, reasonNotRestored, "Delete", "%s", "the namespace goes before the PyrsiaNode: "+restoreByHand)
	case err != nil:
		return 0, err
	case live == nil:
		return cleanupPoll, nil
	case live.Status.NumberReady >= live.Status.DesiredNumberScheduled:
	case r.Now().Sub(live.CreationTimestamp.Time) < cleanupLimit:
		return cleanupPoll, nil
	default:
		r.status.recorder.Eventf(n, nil, corev1.EventTypeWarning, reasonNotRestored, "Delete", "%d of %d Kubernetes nodes did not answer: %s",
			live.Status.DesiredNumberScheduled-live.Status.NumberReady, live.Status.DesiredNumberScheduled, restoreByHand)
	}
	if err := deleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", cleanupName(n)); err != nil {
		return 0, err
	}
	before := n.DeepCopy()
	controllerutil.RemoveFinalizer(n, containerdFinalizer)
	err = r.Client.Patch(ctx, n, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return 0, wrap(client.IgnoreNotFound(err), "removing the finalizer")
}

// reasonNotRestored is of the event that tells which Kubernetes nodes still
// have the mirror's set-up.
const (
	reasonNotRestored = "ContainerdNotRestored"
	restoreByHand     = "if one comes back, run 'pyrsia containerd uninstall' on it, or make a mirror there again and delete it"
)

// stillThere tells whether a pod of the mirror may still set containerd up: not
// one that should have ended a while ago, for its machine is gone.
func (r *PyrsiaNodeReconciler) stillThere(n *v1alpha1.PyrsiaNode, p corev1.Pod) bool {
	since := n.DeletionTimestamp.Time
	if p.DeletionTimestamp != nil {
		since = p.DeletionTimestamp.Time // which is when its grace period ends
	}
	return r.Now().Sub(since) < podLimit
}
