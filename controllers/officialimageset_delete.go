package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

const (
	// contentFinalizer holds the deletion of a set whose content is to go too.
	contentFinalizer = "pyrsia.io/content"
	// maxDeletion bounds how long a publisher that does not answer holds it.
	maxDeletion = 15 * time.Minute
)

// holdDeletion puts the finalizer where deletionPolicy wants it.
func (r *OfficialImageSetReconciler) holdDeletion(ctx context.Context, set *v1alpha1.OfficialImageSet) error {
	want := set.Spec.DeletionPolicy == v1alpha1.DeletionDelete
	if want == controllerutil.ContainsFinalizer(set, contentFinalizer) {
		return nil
	}
	before := set.DeepCopy()
	if want {
		controllerutil.AddFinalizer(set, contentFinalizer)
	} else {
		controllerutil.RemoveFinalizer(set, contentFinalizer)
	}
	return wrap(r.Client.Patch(ctx, set, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})), "writing the finalizer")
}

// finalize has the publisher drop the content of the set's images, but not of
// those that another set holds.
func (r *OfficialImageSetReconciler) finalize(ctx context.Context, set *v1alpha1.OfficialImageSet) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(set, contentFinalizer) {
		return ctrl.Result{}, nil
	}
	wait, err := r.drop(ctx, set)
	late := r.Now().Sub(set.DeletionTimestamp.Time) > maxDeletion
	if (err != nil || wait > 0) && !late {
		return ctrl.Result{RequeueAfter: wait}, err
	}
	if late {
		ctrl.LoggerFrom(ctx).Info("the publisher did not drop the set's content in time: the set goes, the content stays", "error", err)
	}
	before := set.DeepCopy()
	controllerutil.RemoveFinalizer(set, contentFinalizer)
	return ctrl.Result{}, wrap(client.IgnoreNotFound(r.Client.Patch(ctx, set, client.MergeFrom(before))), "removing the finalizer")
}

func (r *OfficialImageSetReconciler) drop(ctx context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
	w := new(work)
	if err := r.known(ctx, set, w); err != nil {
		return 0, err
	}
	var ids []control.ArtifactID
	for _, list := range w.have {
		for _, art := range list {
			if len(setOwners(art)) == 1 {
				ids = append(ids, control.ArtifactID{Image: art.Spec.Image, Digest: art.Spec.Digest})
			}
		}
	}
	_, node, err := r.Nodes.publisher(ctx, set.Namespace, set.Spec.PublisherRef.Name)
	if unusable, ok := errors.AsType[*unusableError](err); ok {
		if unusable.permanent || unusable.reason == "PublisherNotFound" {
			return 0, nil // its content went with it
		}
		return waitForPublisher, nil
	}
	if err != nil {
		return 0, err
	}
	for part := range slices.Chunk(ids, control.MaxDrop) {
		_, err := node.Drop(ctx, control.DropRequest{Artifacts: part})
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.RetryAfterSeconds > 0 {
			return retryAfter(refusal), nil
		}
		if err != nil {
			return 0, fmt.Errorf("dropping the content of %s: %w", set.Name, err)
		}
	}
	return 0, nil
}
