// Package imageset resolves the tags of OfficialImageSets, and keeps an Artifact for each
// digest.
// It imports the packages that the controllers share, and no other controller. The package
// controllers sets it up.
package imageset

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// +kubebuilder:rbac:groups=pyrsia.io,resources=officialimagesets,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pyrsia.io,resources=officialimagesets/status,verbs=patch
// +kubebuilder:rbac:groups=pyrsia.io,resources=officialimagesets/finalizers,verbs=update
// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts,verbs=list;watch;create;patch;delete

// gathering is how long a set's events are gathered before it is reconciled: one
// reconciliation counts many Artifacts.
const gathering = 2 * time.Second

// Reconciler resolves the tags of OfficialImageSets, and keeps
// an Artifact for each digest.
type Reconciler struct {
	Client client.Client
	Nodes  *nodeclient.Nodes
	Now    func() time.Time

	status status.Writer[*v1alpha1.OfficialImageSet]

	mu      sync.Mutex
	sets    map[types.NamespacedName]*imageSet // owned by mu; imageSet says who owns one
	budgets map[string]*rate.Limiter           // of a namespace's Artifacts; owned by mu
}

// Reconcile brings an OfficialImageSet closer to having all its images published.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	set := new(v1alpha1.OfficialImageSet)
	if err := r.Client.Get(ctx, req.NamespacedName, set); err != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !set.DeletionTimestamp.IsZero() {
		r.forget(req.NamespacedName) // what a set saw that goes counts no more
		return r.finalize(ctx, set)
	}
	if err := r.ensureFinalizer(ctx, set); err != nil {
		return ctrl.Result{}, err
	}
	s := r.begin(set)
	defer func() { s.round = round{} }() // thousands of Artifacts are not kept until the next time
	next, err := status.Run(ctx, s, r.plan, r.resolve, r.artifacts, r.count)
	return r.status.Finish(ctx, s.before, set, next, err)
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.sets, r.budgets = map[types.NamespacedName]*imageSet{}, map[string]*rate.Limiter{}
	r.status = status.Writer[*v1alpha1.OfficialImageSet]{Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder("officialimageset-controller")}
	return ctrl.NewControllerManagedBy(mgr).
		Named("officialimageset").
		For(&v1alpha1.OfficialImageSet{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Artifact{}, ownersAfterAWhile).
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.setsOf), builder.WithPredicates(objects.UsabilityChanged)).
		WithOptions(objects.Options(nodeclient.SetsAtOnce)).
		Complete(r)
}

// ownersAfterAWhile enqueues the sets that hold an Artifact.
var ownersAfterAWhile = func() handler.Funcs {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	enqueue := func(obj client.Object, q queue) {
		for _, name := range setOwners(obj) {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: name}}, gathering)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { enqueue(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { enqueue(e.ObjectNew, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { enqueue(e.Object, q) },
	}
}()

// setOwners are the names of the sets that hold an Artifact.
func setOwners(obj client.Object) (names []string) {
	for _, ref := range obj.GetOwnerReferences() {
		if ref.Kind == "OfficialImageSet" && strings.HasPrefix(ref.APIVersion, v1alpha1.GroupVersion.Group+"/") {
			names = append(names, ref.Name)
		}
	}
	return names
}

// setsOf are the sets that refer to a publisher.
func (r *Reconciler) setsOf(ctx context.Context, publisher client.Object) []reconcile.Request {
	return objects.Find(ctx, r.Client, new(v1alpha1.OfficialImageSetList), client.InNamespace(publisher.GetNamespace()), client.MatchingFields{objects.IndexPublisher: publisher.GetName()})
}
