// Package artifact has Artifacts published, verified, mirrored, withdrawn and restored, or
// looked up on a node's ledger.
// It imports the packages that the controllers share, and no other controller. The package
// controllers sets it up.
package artifact

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts,verbs=list;watch
// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts/status,verbs=patch

// Reconciler publishes Artifacts, and verifies that they are published.
type Reconciler struct {
	Client client.Client
	Nodes  *nodeclient.Nodes
	// Saw tells whether a set that owns an Artifact saw its tag at its digest.
	Saw func(*v1alpha1.Artifact) bool
	Now func() time.Time

	status status.Writer[*v1alpha1.Artifact]
}

// Reconcile brings an Artifact closer to being published, verified and mirrored.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	art := new(v1alpha1.Artifact)
	if err := r.Client.Get(ctx, req.NamespacedName, art); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := art.DeepCopy()
	next, err := status.Run(ctx, art, r.Steps(art)...)
	if err == nil && onlyWaits(art, r.Now()) {
		return ctrl.Result{RequeueAfter: next}, nil
	}
	return r.status.Finish(ctx, before, art, next, err)
}

// Steps are what is to be done for an Artifact. One that is being deleted may be
// kept by a finalizer for long: it goes on to tell whether its image is withdrawn,
// and to withdraw it, and has nothing published or restored any more.
func (r *Reconciler) Steps(art *v1alpha1.Artifact) []status.Step[*v1alpha1.Artifact] {
	switch {
	case art.Spec.State == v1alpha1.StateRevoked:
		return []status.Step[*v1alpha1.Artifact]{r.revoke}
	case art.Spec.NodeRef.Name != "":
		return []status.Step[*v1alpha1.Artifact]{r.find, r.verify, r.withdrawn}
	case objects.IsLeaving(art):
		return []status.Step[*v1alpha1.Artifact]{r.elsewhere, r.leave, r.verify, r.mirror, r.withdrawn}
	case art.Spec.State == v1alpha1.StateRestored:
		return []status.Step[*v1alpha1.Artifact]{r.restore, r.elsewhere, r.publish, r.verify, r.mirror, r.withdrawn}
	}
	return []status.Step[*v1alpha1.Artifact]{r.elsewhere, r.publish, r.verify, r.mirror, r.withdrawn}
}

// leave stands for the step publish where an Artifact is being deleted.
func (r *Reconciler) leave(_ context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	if art.Status.Block == nil {
		status.SetWaiting(art, v1alpha1.ConditionPublished, v1alpha1.ReasonTerminating, "the Artifact is being deleted: it is not published any more")
	}
	return 0, nil
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.status = status.Writer[*v1alpha1.Artifact]{Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder("artifact-controller"), Routine: isRoutine}
	return ctrl.NewControllerManagedBy(mgr).
		Named("artifact").
		For(&v1alpha1.Artifact{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.waitingForPublisher), builder.WithPredicates(objects.UsabilityChanged)).
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.waitingForMirror), builder.WithPredicates(mirrorGrew)).
		Watches(&v1alpha1.Artifact{}, handler.EnqueueRequestsFromMapFunc(r.sharing), builder.WithPredicates(withdrawalChanged)).
		WithOptions(objects.Options(nodeclient.ArtifactsAtOnce)).
		Complete(r)
}

// waitingForPublisher are the Artifacts that a publisher has not yet published.
func (r *Reconciler) waitingForPublisher(ctx context.Context, node client.Object) []reconcile.Request {
	return append(r.atStage(ctx, node.GetNamespace(), objects.StagePublish+node.GetName()),
		r.atStage(ctx, node.GetNamespace(), objects.StageFailed+node.GetName())...)
}

// waitingForMirror are the Artifacts that a mirror may have been the last to get.
func (r *Reconciler) waitingForMirror(ctx context.Context, node client.Object) []reconcile.Request {
	n, ok := node.(*v1alpha1.PyrsiaNode)
	if !ok || n.Spec.Network == nil || n.Spec.Network.PublisherRef == nil {
		return nil
	}
	return r.atStage(ctx, n.Namespace, objects.StageMirror+n.Spec.Network.PublisherRef.Name)
}

func (r *Reconciler) atStage(ctx context.Context, namespace, stage string) []reconcile.Request {
	return objects.Find(ctx, r.Client, new(v1alpha1.ArtifactList), client.InNamespace(namespace), client.MatchingFields{objects.IndexStage: stage})
}

// mirrorGrew passes mirrors that came, went, or have more blocks.
var mirrorGrew = objects.Changed(func(was, is *v1alpha1.PyrsiaNode) bool {
	return is.Spec.Role == v1alpha1.RoleMirror && (objects.LedgerSize(is) > objects.LedgerSize(was) || awaited(was) != awaited(is))
})

// isRoutine tells whether a condition that has become True is the normal
// success of an Artifact, of which there are thousands: only recoveries from
// failures, and withdrawals, get events.
func isRoutine(was *metav1.Condition, is metav1.Condition) bool {
	return is.Reason != v1alpha1.ReasonRevoked && is.Reason != v1alpha1.ReasonRestored && (was == nil || was.Status != metav1.ConditionFalse)
}

// pollAfter is when to ask again how far a publication is that began age ago.
func pollAfter(age time.Duration) time.Duration {
	return min(max(age/10, time.Second), 15*time.Second)
}

func age(now time.Time, since metav1.Time) time.Duration { return now.Sub(since.Time) }
