package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// +kubebuilder:rbac:groups=pyrsia.io,resources=officialimagesets,verbs=get;list;watch
// +kubebuilder:rbac:groups=pyrsia.io,resources=officialimagesets/status,verbs=patch
// +kubebuilder:rbac:groups=pyrsia.io,resources=officialimagesets/finalizers,verbs=update
// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts,verbs=get;list;watch;create;delete

// OfficialImageSetReconciler resolves the tags of OfficialImageSets, and keeps
// an Artifact for each digest.
type OfficialImageSetReconciler struct {
	Client client.Client
	Nodes  *Nodes
	Now    func() time.Time

	status statusWriter

	mu     sync.Mutex
	passes map[types.NamespacedName]*pass // owned by mu; a pass by the set's reconciliation
}

// Reconcile brings an OfficialImageSet closer to having all its images published.
func (r *OfficialImageSetReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	set := new(v1alpha1.OfficialImageSet)
	if err := r.Client.Get(ctx, req.NamespacedName, set); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !set.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	before := set.DeepCopy()
	w := &work{}
	next, err := run(ctx, set, r.list(w), r.resolve(w), r.artifacts(w), r.count(w))
	return r.status.finish(ctx, before, set, next, err)
}

// work is what the steps of one reconciliation hand to each other.
type work struct {
	images  []string                        // wanted, by name, each once
	invalid map[string]error                // wanted, but not an image's name
	have    map[string][]*v1alpha1.Artifact // the set's Artifacts by image, newest first; read only
	pass    *pass

	unusable *unusableError // why the publisher cannot be asked
}

// list reads which images are wanted and which Artifacts there are.
func (r *OfficialImageSetReconciler) list(w *work) step[*v1alpha1.OfficialImageSet] {
	return func(ctx context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
		w.images, w.invalid = wantedImages(set)
		all := new(v1alpha1.ArtifactList)
		err := r.Client.List(ctx, all, client.InNamespace(set.Namespace), client.MatchingFields{indexOwner: string(set.UID)}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return 0, fmt.Errorf("listing the Artifacts of %s: %w", set.Name, err)
		}
		w.have = byImage(all.Items)
		w.pass = r.passOf(set, w)
		return 0, nil
	}
}

// wantedImages are the set's images in canonical form.
func wantedImages(set *v1alpha1.OfficialImageSet) (images []string, invalid map[string]error) {
	seen := map[string]bool{}
	invalid = map[string]error{}
	for _, i := range set.Spec.Images {
		for _, tag := range i.Tags {
			name := i.Repository + ":" + tag
			image, err := ledger.ParseImage(name)
			if err != nil {
				invalid[name] = err
				continue
			}
			if canonical := image.String(); !seen[canonical] {
				seen[canonical] = true
				images = append(images, canonical)
			}
		}
	}
	return images, invalid
}

// SetupWithManager registers the controller.
func (r *OfficialImageSetReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.passes = map[types.NamespacedName]*pass{}
	r.status = statusWriter{client: mgr.GetClient(), recorder: mgr.GetEventRecorder("officialimageset-controller")}
	return ctrl.NewControllerManagedBy(mgr).
		Named("officialimageset").
		For(&v1alpha1.OfficialImageSet{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&v1alpha1.Artifact{}).
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.setsOf), builder.WithPredicates(usabilityChanged)).
		WithOptions(options(4)).
		Complete(r)
}

// setsOf are the sets that refer to a publisher.
func (r *OfficialImageSetReconciler) setsOf(ctx context.Context, publisher client.Object) []reconcile.Request {
	list := new(v1alpha1.OfficialImageSetList)
	err := r.Client.List(ctx, list, client.InNamespace(publisher.GetNamespace()), client.MatchingFields{indexPublisher: publisher.GetName()})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the image sets of a publisher", "publisher", publisher.GetName())
		return nil
	}
	return requests(list.Items)
}
