package imageset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

const (
	// contentFinalizer holds the deletion of a set whose content is to go too.
	contentFinalizer = "pyrsia.io/content"
	// maxDeletion bounds how long a publisher that does not answer holds it.
	maxDeletion = 15 * time.Minute
)

// ensureFinalizer puts the finalizer where deletionPolicy wants it.
func (r *Reconciler) ensureFinalizer(ctx context.Context, set *v1alpha1.OfficialImageSet) error {
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
	return objects.Wrap(r.Client.Patch(ctx, set, status.UnlessChanged(before)), "writing the finalizer")
}

// finalize has the publisher drop the content of the set's images, but not of
// those that somebody else wants.
func (r *Reconciler) finalize(ctx context.Context, set *v1alpha1.OfficialImageSet) (ctrl.Result, error) {
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
	return ctrl.Result{}, objects.Wrap(client.IgnoreNotFound(r.Client.Patch(ctx, set, status.UnlessChanged(before))), "removing the finalizer")
}

func (r *Reconciler) drop(ctx context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
	ids, err := r.WantedByNobody(ctx, set)
	if err != nil {
		return 0, err
	}
	for part := range slices.Chunk(ids, control.MaxDrop) {
		err := r.Nodes.AskPublisher(ctx, set.Namespace, set.Spec.PublisherRef.Name, nodeclient.ToPlan, func(ctx context.Context, _ *v1alpha1.PyrsiaNode, c *control.Client) error {
			_, err := c.Drop(ctx, control.DropRequest{Artifacts: part})
			return err
		})
		if nodeclient.IsGone(err) {
			return 0, nil // its content went with it
		}
		if wait, ok := nodeclient.AskAgain(err); ok {
			return wait, nil
		}
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.RetryAfterSeconds > 0 {
			return nodeclient.RetryAfter(refusal), nil
		}
		if err != nil {
			return 0, fmt.Errorf("dropping the content of %s: %w", set.Name, err)
		}
	}
	return 0, nil
}

// WantedByNobody are the images of a deleted set that nothing else in the
// cluster needs: there is no other Artifact of the digest, whoever created it.
func (r *Reconciler) WantedByNobody(ctx context.Context, set *v1alpha1.OfficialImageSet) (ids []control.ArtifactID, err error) {
	own, err := r.own(ctx, set)
	if err != nil {
		return nil, err
	}
	sets := new(v1alpha1.OfficialImageSetList)
	if err := r.Client.List(ctx, sets, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the image sets: %w", err)
	}
	stay := map[types.UID]bool{}
	for i := range sets.Items {
		stay[sets.Items[i].UID] = sets.Items[i].DeletionTimestamp.IsZero()
	}
	needed := map[string]bool{} // by digest: thousands of tags may have the same
	for _, art := range own {
		digest := art.Spec.Digest
		if _, known := needed[digest]; !known {
			same := new(v1alpha1.ArtifactList)
			if err := r.Client.List(ctx, same, client.MatchingFields{objects.IndexDigest: digest}, client.UnsafeDisableDeepCopy); err != nil {
				return nil, fmt.Errorf("listing the Artifacts of %s: %w", digest, err)
			}
			needed[digest] = slices.ContainsFunc(same.Items, func(a v1alpha1.Artifact) bool { return needsContent(&a, stay) })
		}
		if !needed[digest] {
			ids = append(ids, control.ArtifactID{Image: art.Spec.Image, Digest: digest})
		}
	}
	return ids, nil
}

// needsContent tells whether an Artifact needs its content to stay: not if it goes, goes
// with the last of its sets, or withdraws it.
func needsContent(art *v1alpha1.Artifact, stay map[types.UID]bool) bool {
	if objects.IsLeaving(art) || art.Spec.State == v1alpha1.StateRevoked {
		return false
	}
	return len(art.OwnerReferences) == 0 || slices.ContainsFunc(art.OwnerReferences, func(ref metav1.OwnerReference) bool {
		return ref.Kind != "OfficialImageSet" || stay[ref.UID]
	})
}
