package artifact

import (
	"context"
	"fmt"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// elsewhere looks whether another Artifact has withdrawn the digest of this one
// in the same repository, or restored it since: a withdrawal concerns all tags.
func (r *Reconciler) elsewhere(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	others, err := r.sameImage(ctx, art, objects.IndexWithdrawal, maxWithdrawals)
	if err != nil {
		return 0, err
	}
	var newest *v1alpha1.Block
	var by string
	withdrawn := false
	for i := range others {
		b, revoked := objects.WithdrawalOf(&others[i])
		if b != nil && (newest == nil || b.Height > newest.Height) {
			newest, by, withdrawn = b, others[i].Name, revoked
		}
	}
	switch {
	case newest == nil, withdrawn && (art.Status.Block == nil || art.Status.Block.Height > newest.Height):
		return 0, nil // the publisher refuses what is withdrawn
	case withdrawn:
		art.Status.Revocation = &v1alpha1.Block{Height: newest.Height, Hash: newest.Hash}
		return 0, setWithdrawn(art, fmt.Sprintf("Block %d of the ledger withdraws the image, as the Artifact %s wants: mirrors refuse it", newest.Height, by))
	case art.Status.Revocation != nil && art.Status.Revocation.Height < newest.Height:
		forgetBlock(art)
	}
	return 0, nil
}

// maxWithdrawals and maxSharing bound how many Artifacts of a digest are looked at
// for another one. A digest has a few names: somebody may make Artifacts of thousands,
// and none of these may cost a look at all the others.
const (
	maxWithdrawals = 100
	maxSharing     = 1000
)

// sameImage are other Artifacts of an Artifact's digest, in the same repository and
// by the same publisher, among the first of those that an index of digests finds.
func (r *Reconciler) sameImage(ctx context.Context, art *v1alpha1.Artifact, index string, limit int64) ([]v1alpha1.Artifact, error) {
	list := new(v1alpha1.ArtifactList)
	err := r.Client.List(ctx, list, client.InNamespace(art.Namespace), client.MatchingFields{index: art.Spec.Digest}, client.Limit(limit), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the Artifacts of %s: %w", art.Spec.Digest, err)
	}
	return slices.DeleteFunc(list.Items, func(o v1alpha1.Artifact) bool {
		return o.Name == art.Name || o.Spec.PublisherRef.Name == "" || o.Spec.PublisherRef != art.Spec.PublisherRef ||
			o.Spec.Image != art.Spec.Image && repository(&o) != repository(art)
	}), nil
}

func repository(art *v1alpha1.Artifact) string {
	image, err := ledger.ParseImage(art.Spec.Image)
	if err != nil {
		return art.Spec.Image
	}
	return image.Name()
}

// sharing are the Artifacts that a withdrawal or a restoration concerns.
func (r *Reconciler) sharing(ctx context.Context, obj client.Object) (out []reconcile.Request) {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok {
		return nil
	}
	others, err := r.sameImage(ctx, art, objects.IndexDigest, maxSharing)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "waking those that a withdrawal concerns")
		return nil
	}
	for i := range others {
		out = append(out, objects.Request(&others[i]))
	}
	return out
}

// withdrawalChanged passes Artifacts that have withdrawn or restored their digest. All
// are looked at when they are created.
var withdrawalChanged = objects.OnlyChanged(func(was, is *v1alpha1.Artifact) bool {
	before, _ := objects.WithdrawalOf(was)
	after, _ := objects.WithdrawalOf(is)
	return after != nil && (before == nil || before.Height != after.Height)
})
