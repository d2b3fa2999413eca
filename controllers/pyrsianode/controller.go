// Package pyrsianode runs the pods of PyrsiaNodes, watches their ledgers, and gives
// the Kubernetes nodes back what a mirror had of them.
// It imports desired and the packages that the controllers share, and no other controller.
// The package controllers sets it up.
package pyrsianode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// +kubebuilder:rbac:groups=pyrsia.io,resources=pyrsianodes,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=pyrsia.io,resources=pyrsianodes/status,verbs=patch
// +kubebuilder:rbac:groups=pyrsia.io,resources=pyrsianodes/finalizers,verbs=update
// +kubebuilder:rbac:groups=apps,resources=statefulsets,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=apps,resources=daemonsets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// pollSteady and pollBusy are how often a node is asked for its ledger:
	// when all is done, and while something is in progress.
	pollSteady = 10 * time.Second
	pollBusy   = time.Second
)

// Config is what the controller is given.
type Config struct {
	Client    client.Client
	Live      client.Reader // not cached
	Recorder  events.EventRecorder
	Nodes     *nodeclient.Nodes
	Keys      *nodeclient.Keyring
	NodeImage string
	KeysEvery time.Duration // how often Secrets are written that pods may lack
	Hosts     HostRules
	// KeyOverlap is for how long the old and the new signing key both sign.
	KeyOverlap time.Duration
	Now        func() time.Time
}

// Reconciler runs the pods of PyrsiaNodes and watches their ledgers.
type Reconciler struct {
	Config

	applier apply.Applier
	status  status.Writer[*v1alpha1.PyrsiaNode]
	record  *hostRecord

	// keysApplied holds by the name of each PyrsiaNode when its Secrets were last
	// written by this process (keysWritten).
	keysApplied sync.Map
}

// New makes one that may be called, and registered.
func New(c Config) *Reconciler {
	c.KeysEvery, c.KeyOverlap = cmp.Or(c.KeysEvery, keysEvery), cmp.Or(c.KeyOverlap, keyOverlap)
	r := &Reconciler{
		Config:  c,
		applier: apply.New(c.Client, c.Live),
		record:  &hostRecord{client: c.Client, live: c.Live, namespace: c.Hosts.Namespace, now: c.Now},
	}
	r.status = status.Writer[*v1alpha1.PyrsiaNode]{Client: c.Client, Recorder: c.Recorder, Remarks: v1alpha1.NodeRemarks, TellMore: r.tellAlarms}
	return r
}

// Reconcile brings a PyrsiaNode closer to its spec.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	n := new(v1alpha1.PyrsiaNode)
	if err := r.Client.Get(ctx, req.NamespacedName, n); err != nil {
		r.keysApplied.Delete(req.NamespacedName)
		if apierrors.IsNotFound(err) {
			err = r.record.forget(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	if !n.DeletionTimestamp.IsZero() {
		next, err := r.cleanup(ctx, n)
		return ctrl.Result{RequeueAfter: next}, err
	}
	if objects.IsStripped(n) {
		before := n.DeepCopy()
		message := fmt.Sprintf("spec.affinity and spec.resources take more than %d KiB together: nothing is made or changed for this PyrsiaNode until they are smaller", objects.MaxCached>>10)
		status.SetFailed(n, v1alpha1.ConditionKeysReady, v1alpha1.ReasonSpecTooLarge, message)
		return r.status.Finish(ctx, before, n, 0, reconcile.TerminalError(errors.New(message)))
	}
	may, err := r.judge(ctx, n)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !may.allowed() {
		before := n.DeepCopy()
		next, err := r.refuse(ctx, n, may)
		return r.status.Finish(ctx, before, n, next, err)
	}
	if err := r.addFinalizer(ctx, n); err != nil {
		return ctrl.Result{}, err
	}
	before := n.DeepCopy()
	setNotAllowed(n, may)
	in := &work{PyrsiaNode: n, Inputs: desired.Inputs{Image: r.NodeImage, Host: may.host, Former: may.former, EveryNode: may.everyNode}}
	next, err := status.Run(ctx, in, ofNode(r.keys), r.network, r.workload, r.coverNodes, r.restoreContainerd, r.prove, r.ledger, ofNode(r.awaitKeys), ofNode(r.pace))
	return r.status.Finish(ctx, before, n, next, err)
}

// work is a PyrsiaNode, with what the steps of one reconciliation hand to each other.
type work struct {
	*v1alpha1.PyrsiaNode
	desired.Inputs
	// mirrors and frontends are the DaemonSets as they were read last; nil while the
	// cluster has not seen the newest one.
	mirrors, frontends *appsv1.DaemonSet
}

// ofNode is a step that needs the PyrsiaNode alone.
func ofNode(step status.Step[*v1alpha1.PyrsiaNode]) status.Step[*work] {
	return func(ctx context.Context, in *work) (time.Duration, error) { return step(ctx, in.PyrsiaNode) }
}

// pace decides when to ask the node again.
func (r *Reconciler) pace(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	if n.Status.Nodes == nil {
		return 0, nil // watches tell of all that is awaited before there are pods
	}
	publisher := n.Name
	if n.Spec.Network != nil && n.Spec.Network.PublisherRef != nil {
		publisher = n.Spec.Network.PublisherRef.Name
	}
	for _, stage := range []string{objects.StagePublish, objects.StageMirror} {
		artifacts := new(v1alpha1.ArtifactList)
		err := r.Client.List(ctx, artifacts, client.InNamespace(n.Namespace), client.MatchingFields{objects.IndexStage: stage + publisher},
			client.Limit(1), client.UnsafeDisableDeepCopy)
		if err != nil {
			return 0, objects.Wrap(err, "listing the Artifacts in progress")
		}
		if len(artifacts.Items) > 0 {
			return pollBusy, nil
		}
	}
	if n.Status.Nodes.Ready > 0 && !status.IsTrue(n, v1alpha1.ConditionLedgerVerified) {
		return 2 * pollBusy, nil
	}
	return pollSteady, nil
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	build := ctrl.NewControllerManagedBy(mgr).
		Named("pyrsianode").
		For(&v1alpha1.PyrsiaNode{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&appsv1.StatefulSet{}).
		Owns(&appsv1.DaemonSet{}).
		Owns(&corev1.Service{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(nodeOfPod)).
		// A publisher that gets its key wakes the mirrors that wait for it.
		Watches(&v1alpha1.PyrsiaNode{}, handler.EnqueueRequestsFromMapFunc(r.mirrorsOf), builder.WithPredicates(objects.UsabilityChanged)).
		// A new block wakes those that are to have it.
		Watches(&v1alpha1.Artifact{}, handler.EnqueueRequestsFromMapFunc(r.networkOf), builder.WithPredicates(becameVerified)).
		WithOptions(objects.Options(nodeclient.NodesAtOnce))
	if r.seesNodes() {
		build.Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.allMirrors), builder.WithPredicates(placesChanged))
		build.WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.nodesOfNamespace), builder.WithPredicates(mirrorsLabelChanged))
	}
	return build.Complete(r)
}

// nodeOfPod is the PyrsiaNode that a pod belongs to.
func nodeOfPod(_ context.Context, pod client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: pod.GetLabels()[objects.LabelInstance]}}}
}

// networkOf are the publisher of an Artifact and its mirrors.
func (r *Reconciler) networkOf(ctx context.Context, obj client.Object) []reconcile.Request {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok {
		return nil
	}
	publisher := &v1alpha1.PyrsiaNode{}
	publisher.Namespace, publisher.Name = art.Namespace, art.Spec.PublisherRef.Name
	return append(r.mirrorsOf(ctx, publisher), objects.Request(publisher))
}

// becameVerified passes Artifacts whose block has just been verified.
var becameVerified = objects.OnlyChanged(func(was, is *v1alpha1.Artifact) bool {
	return !status.IsTrue(was, v1alpha1.ConditionVerified) && status.IsTrue(is, v1alpha1.ConditionVerified)
})

// mirrorsOf are the mirrors that refer to a publisher.
func (r *Reconciler) mirrorsOf(ctx context.Context, publisher client.Object) []reconcile.Request {
	return objects.Find(ctx, r.Client, new(v1alpha1.PyrsiaNodeList), client.InNamespace(publisher.GetNamespace()), client.MatchingFields{objects.IndexPublisher: publisher.GetName()})
}
