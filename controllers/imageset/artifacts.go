package imageset

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// defaultHistoryLimit is how many Artifacts of earlier digests are kept.
const defaultHistoryLimit = 3

// writesAtOnce is how many Artifacts of a set are made at the same time.
const writesAtOnce = 8

// artifacts creates the desired Artifacts and gives up the others.
func (r *Reconciler) artifacts(ctx context.Context, s *imageSet) (time.Duration, error) {
	if !s.planned || s.Spec.Mode == v1alpha1.SetModePlan {
		return 0, nil
	}
	limit := defaultHistoryLimit
	if s.Spec.HistoryLimit != nil {
		limit = int(*s.Spec.HistoryLimit)
	}
	var group errgroup.Group
	var again atomic.Bool
	group.SetLimit(writesAtOnce)
	for _, image := range slices.Sorted(maps.Keys(s.images)) {
		i := s.images[image]
		if i.digest != "" && (i.moved || find(s.have[image], i.digest) == nil) {
			group.Go(func() error {
				done, err := r.ensure(ctx, s.OfficialImageSet, s.have[image], image, i)
				if !done {
					again.Store(true)
				}
				return err
			})
		}
	}
	for image, have := range s.have {
		for _, art := range unwanted(have, s.images[image], limit) {
			group.Go(func() error { return r.giveUp(ctx, s.OfficialImageSet, art) })
		}
	}
	if err := group.Wait(); err != nil || !again.Load() {
		return 0, err
	}
	return gathering, nil
}

// ensure makes the Artifact of an image's digest. One that is published, but
// no longer the image's newest block because the tag moved away and back, is
// made again, so that it is published again. It is not done when the cache is
// behind: no event tells a set of an Artifact that it does not hold yet.
func (r *Reconciler) ensure(ctx context.Context, set *v1alpha1.OfficialImageSet, have []*v1alpha1.Artifact, image string, i *resolution) (done bool, err error) {
	if existing := find(have, i.digest); existing != nil {
		if !status.IsTrue(existing, v1alpha1.ConditionPublished) {
			return true, nil
		}
		if err := r.delete(ctx, existing); err != nil {
			return false, err
		}
	}
	i.moved = false // what follows mends it, or is tried again after the next pass
	i.tryToMake()
	art := newArtifact(set, image, i.digest)
	if err := controllerutil.SetOwnerReference(set, art, r.Client.Scheme()); err != nil {
		return false, fmt.Errorf("making the Artifact of %s: %w", image, err)
	}
	got := new(v1alpha1.Artifact)
	err = r.Client.Get(ctx, client.ObjectKeyFromObject(art), got)
	switch {
	case apierrors.IsNotFound(err) && !r.mayMake(set.Namespace):
		i.tooMany(image, client.ObjectKeyFromObject(set), r.Now())
		return true, nil
	case apierrors.IsNotFound(err):
		err = r.Client.Create(ctx, art)
		return err == nil, objects.Wrap(ignoreAlreadyExists(err), "making the Artifact of %s", image)
	case err != nil:
		return false, fmt.Errorf("reading Artifact %s: %w", art.Name, err)
	case objects.IsLeaving(got):
		return i.leaving(got, image, r.Now()), nil
	case !objects.Alike(got, art):
		i.conflict(art, r.Now())
		return true, nil
	case ownedBy(got, set):
		return true, nil // the next event shows more
	case isFull(got):
		i.full(art, r.Now())
		return true, nil
	}
	return r.share(ctx, set, got)
}

// share makes the set an owner of an Artifact that another set has made, or
// somebody by hand.
func (r *Reconciler) share(ctx context.Context, set *v1alpha1.OfficialImageSet, got *v1alpha1.Artifact) (done bool, err error) {
	before := got.DeepCopy()
	if err := controllerutil.SetOwnerReference(set, got, r.Client.Scheme()); err != nil {
		return false, fmt.Errorf("sharing Artifact %s: %w", got.Name, err)
	}
	err = r.Client.Patch(ctx, got, status.UnlessChanged(before))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, nil // another set took it, or gave it up
	}
	return err == nil, objects.Wrap(err, "sharing Artifact %s", got.Name)
}

func ignoreAlreadyExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// giveUp takes the set out of an Artifact's owners; the last one deletes it.
func (r *Reconciler) giveUp(ctx context.Context, set *v1alpha1.OfficialImageSet, art *v1alpha1.Artifact) error {
	if len(art.OwnerReferences) <= 1 {
		return r.delete(ctx, art)
	}
	after := art.DeepCopy()
	after.OwnerReferences = slices.DeleteFunc(after.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == set.UID })
	err := r.Client.Patch(ctx, after, status.UnlessChanged(art.DeepCopy()))
	if apierrors.IsConflict(err) {
		return nil
	}
	return objects.Wrap(client.IgnoreNotFound(err), "giving up Artifact %s", art.Name)
}

// delete deletes an Artifact, unless it changed meanwhile: then another set
// may have become its owner.
func (r *Reconciler) delete(ctx context.Context, art *v1alpha1.Artifact) error {
	err := r.Client.Delete(ctx, art.DeepCopy(), client.Preconditions{UID: &art.UID, ResourceVersion: &art.ResourceVersion})
	if apierrors.IsConflict(err) {
		return nil // the next event shows what changed
	}
	return objects.Wrap(client.IgnoreNotFound(err), "deleting Artifact %s", art.Name)
}

func newArtifact(set *v1alpha1.OfficialImageSet, image, digest string) *v1alpha1.Artifact {
	return &v1alpha1.Artifact{
		ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: objects.ArtifactName(image, digest)},
		Spec:       v1alpha1.ArtifactSpec{Image: image, Digest: digest, PublisherRef: set.Spec.PublisherRef, Platforms: set.Spec.Platforms},
	}
}

// byImage sorts Artifacts by image, the newest of each first.
func byImage(arts []*v1alpha1.Artifact) map[string][]*v1alpha1.Artifact {
	out := map[string][]*v1alpha1.Artifact{}
	for _, a := range arts {
		out[a.Spec.Image] = append(out[a.Spec.Image], a)
	}
	height := func(a *v1alpha1.Artifact) int64 {
		if a.Status.Block == nil {
			return math.MaxInt64
		}
		return a.Status.Block.Height
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b *v1alpha1.Artifact) int {
			return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(height(b), height(a)), cmp.Compare(a.Name, b.Name))
		})
	}
	return out
}

func find(have []*v1alpha1.Artifact, digest string) *v1alpha1.Artifact {
	for _, a := range have {
		if a.Spec.Digest == digest {
			return a
		}
	}
	return nil
}

// unwanted are the Artifacts to delete of one image: all, if it is not in the
// set any more; else those of earlier digests beyond the limit, and those that
// were overtaken before they were published.
func unwanted(have []*v1alpha1.Artifact, i *resolution, limit int) []*v1alpha1.Artifact {
	if i == nil {
		return have
	}
	if i.digest == "" {
		return nil // which one is the current one is not known
	}
	var out []*v1alpha1.Artifact
	kept := 0
	for _, a := range have {
		switch {
		case a.Spec.Digest == i.digest:
		case !status.IsTrue(a, v1alpha1.ConditionPublished) || kept == limit:
			out = append(out, a)
		default:
			kept++
		}
	}
	return out
}
