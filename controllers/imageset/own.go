package imageset

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// leavingFor is how long an Artifact that is being deleted may keep a name that a
// set needs, before that is a failure.
const leavingFor = 30 * time.Second

// own lists a set's Artifacts, those that are being deleted too.
func (r *Reconciler) own(ctx context.Context, set *v1alpha1.OfficialImageSet) (own []*v1alpha1.Artifact, err error) {
	all := new(v1alpha1.ArtifactList)
	err = r.Client.List(ctx, all, client.InNamespace(set.Namespace), client.MatchingFields{objects.IndexSet: string(set.UID)}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the Artifacts of %s: %w", set.Name, err)
	}
	for i := range all.Items {
		if fits(set, &all.Items[i]) {
			own = append(own, &all.Items[i])
		}
	}
	return own, nil
}

// fits tells whether an Artifact in IndexSet publishes what the set wants: by the same
// publisher, and for the same platforms.
func fits(set *v1alpha1.OfficialImageSet, art *v1alpha1.Artifact) bool {
	return art.Spec.NodeRef.Name == "" && art.Spec.PublisherRef == set.Spec.PublisherRef && objects.SamePlatforms(art.Spec.Platforms, set.Spec.Platforms)
}

// isFull tells whether an Artifact has no room for another owner: with more, it
// would be kept without any.
func isFull(art *v1alpha1.Artifact) bool {
	return objects.IsStripped(art) || len(art.OwnerReferences) >= objects.MaxOwners
}

func ownedBy(art *v1alpha1.Artifact, set *v1alpha1.OfficialImageSet) bool {
	return hasOwner(art, set.UID)
}

func hasOwner(art *v1alpha1.Artifact, uid types.UID) bool {
	return slices.ContainsFunc(art.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == uid })
}

// conflict keeps the failure that an Artifact's name is taken.
func (i *resolution) conflict(want *v1alpha1.Artifact, now time.Time) {
	i.unmade(want.Spec.Image, v1alpha1.ReasonNameConflict, now,
		"the Artifact %q exists with another publisher, or other platforms: take the image out of the other set, or delete that Artifact", want.Name)
}

// full keeps the failure that the Artifact belongs to too many others.
func (i *resolution) full(want *v1alpha1.Artifact, now time.Time) {
	i.unmade(want.Spec.Image, v1alpha1.ReasonNameConflict, now,
		"the Artifact %q has %d owners or more, or one whose name is too long: take those that are gone out of its metadata.ownerReferences, or delete it", want.Name, objects.MaxOwners)
}

// leaving keeps the failure that the Artifact which has the name is being deleted
// and does not go. It is none yet if it may go by itself.
func (i *resolution) leaving(art *v1alpha1.Artifact, image string, now time.Time) (failed bool) {
	if now.Sub(art.DeletionTimestamp.Time) < leavingFor {
		return false
	}
	i.unmade(image, v1alpha1.ReasonArtifactTerminating, now,
		"the Artifact %q is being deleted, and finalizers keep it: once whoever set them has no need of it, `kubectl patch artifact %s --type merge -p '{\"metadata\": {\"finalizers\": null}}'` lets it go, and it is made again; its finalizers: %s",
		art.Name, art.Name, strings.Join(art.Finalizers, ", "))
	return true
}

func (i *resolution) unmade(image, reason string, now time.Time, message string, args ...any) {
	i.retryAt = now.Add(retryMax)
	i.failure = &v1alpha1.ImageFailure{Image: image, Reason: reason, Message: status.Bounded(fmt.Sprintf(message, args...), status.MaxMessage)}
}

// tryToMake forgets why the Artifact could not be made the last time.
func (i *resolution) tryToMake() {
	if i.failure != nil && slices.Contains([]string{v1alpha1.ReasonNameConflict, v1alpha1.ReasonArtifactTerminating, v1alpha1.ReasonTooManyArtifacts}, i.failure.Reason) {
		i.failure = nil
	}
}
