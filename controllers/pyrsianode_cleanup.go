package controllers

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// containerdFinalizer keeps a mirror that manages containerd until the
// Kubernetes nodes have their own set-up back.
const containerdFinalizer = "pyrsia.io/containerd"

const (
	// cleanupLimit bounds the clean-up: a Kubernetes node that is gone must
	// not block the deletion.
	cleanupLimit = 2 * time.Minute
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

// cleanup gives the Kubernetes nodes their containerd set-up back: the mirror
// goes first, because its pods would install it again. Dying at any point is
// repaired by the next call, which looks at what is there.
func (r *PyrsiaNodeReconciler) cleanup(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return 0, nil
	}
	// The cache may still show what is gone already: nothing may be made for that.
	if err := r.applier.live.Get(ctx, client.ObjectKeyFromObject(n), n); err != nil || !controllerutil.ContainsFinalizer(n, containerdFinalizer) || n.DeletionTimestamp.IsZero() {
		return 0, wrap(client.IgnoreNotFound(err), "reading the PyrsiaNode again")
	}
	if err := r.deleteOwned(ctx, n, n.Name); err != nil {
		return 0, err
	}
	if r.Now().Sub(n.DeletionTimestamp.Time) < cleanupLimit {
		counts, err := r.applyDaemonSet(ctx, n, cleanupDaemonSet(n, podInputs{image: r.NodeImage}))
		if err != nil {
			return 0, err
		}
		if counts == nil || counts.Ready < counts.Desired {
			return cleanupPoll, nil
		}
	}
	if err := r.deleteOwned(ctx, n, cleanupName(n)); err != nil {
		return 0, err
	}
	before := n.DeepCopy()
	controllerutil.RemoveFinalizer(n, containerdFinalizer)
	err := r.Client.Patch(ctx, n, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return 0, wrap(client.IgnoreNotFound(err), "removing the finalizer")
}

// deleteOwned deletes one of the PyrsiaNode's DaemonSets, if it is there.
func (r *PyrsiaNodeReconciler) deleteOwned(ctx context.Context, n *v1alpha1.PyrsiaNode, name string) error {
	ds := new(appsv1.DaemonSet)
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: n.Namespace, Name: name}, ds)
	if apierrors.IsNotFound(err) || err == nil && (!metav1.IsControlledBy(ds, n) || ds.DeletionTimestamp != nil) {
		return nil
	}
	if err == nil {
		err = client.IgnoreNotFound(r.Client.Delete(ctx, ds, client.Preconditions{UID: &ds.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	}
	if err != nil {
		return fmt.Errorf("deleting DaemonSet %s: %w", name, err)
	}
	return nil
}
