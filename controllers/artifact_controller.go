package controllers

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts,verbs=list;watch
// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts/status,verbs=patch

// ArtifactReconciler publishes Artifacts, and verifies that they are published.
type ArtifactReconciler struct {
	Client client.Client
	Nodes  *Nodes
	Pulls  *Pulls
	// Saw tells whether a set that owns an Artifact saw its tag at its digest.
	Saw func(*v1alpha1.Artifact) bool
	Now func() time.Time

	status statusWriter[*v1alpha1.Artifact]
}

// Reconcile brings an Artifact closer to being published, verified and mirrored.
func (r *ArtifactReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	art := new(v1alpha1.Artifact)
	if err := r.Client.Get(ctx, req.NamespacedName, art); err != nil {
		if apierrors.IsNotFound(err) {
			r.Pulls.told(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := art.DeepCopy()
	next, err := run(ctx, art, r.steps(art)...)
	if err == nil && onlyWaits(art, r.Now()) {
		return ctrl.Result{RequeueAfter: next}, nil
	}
	r.Pulls.tell(art)
	return r.status.finish(ctx, before, art, next, err)
}

// steps are what is to be done for an Artifact. One that is being deleted may be
// kept by a finalizer for long: it goes on to tell whether its image is withdrawn,
// and to withdraw it, and has nothing published or restored any more.
func (r *ArtifactReconciler) steps(art *v1alpha1.Artifact) []step[*v1alpha1.Artifact] {
	switch {
	case art.Spec.State == v1alpha1.StateRevoked:
		return []step[*v1alpha1.Artifact]{r.revoke}
	case art.Spec.NodeRef.Name != "":
		return []step[*v1alpha1.Artifact]{r.find, r.verify, r.withdrawn}
	case isLeaving(art):
		return []step[*v1alpha1.Artifact]{r.elsewhere, r.leave, r.verify, r.mirror, r.withdrawn}
	case art.Spec.State == v1alpha1.StateRestored:
		return []step[*v1alpha1.Artifact]{r.restore, r.elsewhere, r.publish, r.verify, r.mirror, r.withdrawn}
	}
	return []step[*v1alpha1.Artifact]{r.elsewhere, r.publish, r.verify, r.mirror, r.withdrawn}
}

// leave stands for the step publish where an Artifact is being deleted.
func (r *ArtifactReconciler) leave(_ context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	if art.Status.Block == nil {
		setWaiting(art, v1alpha1.ConditionPublished, "Terminating", "the Artifact is being deleted: it is not published any more")
	}
	return 0, nil
}

// The stages of an Artifact in indexStage, each before the publisher's name.
const (
	stagePublish = "publish:" // being published
	stageFailed  = "failed:"  // failed to be published or verified
	stageMirror  = "mirror:"  // verified, waiting for mirrors
)

// stageOf is an Artifact's value in indexStage: none when all is done.
func stageOf(obj client.Object) []string {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok || isTrue(art, v1alpha1.ConditionReady) {
		return nil
	}
	stage := stagePublish
	switch {
	case art.Spec.State == v1alpha1.StateRevoked:
	case isTrue(art, v1alpha1.ConditionVerified):
		stage = stageMirror
	case meta.IsStatusConditionFalse(art.Status.Conditions, v1alpha1.ConditionPublished),
		meta.IsStatusConditionFalse(art.Status.Conditions, v1alpha1.ConditionVerified):
		stage = stageFailed
	}
	return []string{stage + art.Spec.PublisherRef.Name + art.Spec.NodeRef.Name} // one of them is set
}

// SetupWithManager registers the controller.
func (r *ArtifactReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.status = statusWriter[*v1alpha1.Artifact]{client: mgr.GetClient(), recorder: mgr.GetEventRecorder("artifact-controller"), routine: isRoutine}
	return ctrl.NewControllerManagedBy(mgr).
		Named("artifact").
		For(&v1alpha1.Artifact{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.waitingForPublisher), builder.WithPredicates(usabilityChanged)).
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.waitingForMirror), builder.WithPredicates(mirrorGrew)).
		Watches(&v1alpha1.Artifact{}, handler.EnqueueRequestsFromMapFunc(r.sharing), builder.WithPredicates(withdrawalChanged)).
		WatchesRawSource(source.Channel(r.Pulls.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(options(artifactsAtOnce)).
		Complete(r)
}

// waitingForPublisher are the Artifacts that a publisher has not yet published.
func (r *ArtifactReconciler) waitingForPublisher(ctx context.Context, node client.Object) []reconcile.Request {
	return append(r.atStage(ctx, node.GetNamespace(), stagePublish+node.GetName()),
		r.atStage(ctx, node.GetNamespace(), stageFailed+node.GetName())...)
}

// waitingForMirror are the Artifacts that a mirror may have been the last to get.
func (r *ArtifactReconciler) waitingForMirror(ctx context.Context, node client.Object) []reconcile.Request {
	n, ok := node.(*v1alpha1.PyrsiaNode)
	if !ok || n.Spec.Network == nil || n.Spec.Network.PublisherRef == nil {
		return nil
	}
	return r.atStage(ctx, n.Namespace, stageMirror+n.Spec.Network.PublisherRef.Name)
}

func (r *ArtifactReconciler) atStage(ctx context.Context, namespace, stage string) []reconcile.Request {
	list := new(v1alpha1.ArtifactList)
	err := r.Client.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{indexStage: stage}, client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the Artifacts that wait", "stage", stage)
		return nil
	}
	return requests(list.Items)
}

// mirrorGrew passes mirrors that came, went, or have more blocks.
var mirrorGrew = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*v1alpha1.PyrsiaNode)
		is, ok2 := e.ObjectNew.(*v1alpha1.PyrsiaNode)
		return ok1 && ok2 && is.Spec.Role == v1alpha1.RoleMirror &&
			(ledgerSize(is) > ledgerSize(was) || awaited(was) != awaited(is))
	},
}

func ledgerSize(n *v1alpha1.PyrsiaNode) int64 {
	if n.Status.Ledger == nil {
		return 0
	}
	return n.Status.Ledger.Size
}

// isRoutine tells whether a condition that has become True is what thousands of
// Artifacts succeed with: recoveries from failures are told, and withdrawals.
func isRoutine(was *metav1.Condition, is metav1.Condition) bool {
	return is.Reason != "Revoked" && is.Reason != "Restored" && (was == nil || was.Status != metav1.ConditionFalse)
}

// pollAfter is when to ask again how far a publication is that began age ago.
func pollAfter(age time.Duration) time.Duration {
	return min(max(age/10, time.Second), 15*time.Second)
}

func age(now time.Time, since metav1.Time) time.Duration { return now.Sub(since.Time) }
