// Package pullhistory makes an Artifact of each image that is pulled through a node and
// has none, and records in status.lastPulled when an Artifact's image was pulled.
// It imports the packages that the controllers share, and no other controller. The package
// controllers sets it up.
package pullhistory

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts,verbs=list;watch;create;delete
// +kubebuilder:rbac:groups=pyrsia.io,resources=artifacts/status,verbs=patch

// receiptInterval is how often a node is asked for its pull receipts.
const receiptInterval = 10 * time.Second

// Reconciler makes an Artifact of each image that is pulled through a
// node and has none: it reads the receipts of the node's pods, and believes of
// them what the ledger proves.
type Reconciler struct {
	Client client.Client
	Nodes  *nodeclient.Nodes
	Now    func() time.Time

	recorder events.EventRecorder

	mu    sync.Mutex
	books map[types.NamespacedName]*book // owned by mu; a book by its node's reconciliation
}

// book is what this process remembers of a node's receipts. All of it can be
// lost: the pods tell again.
type book struct {
	uid        types.UID
	generation int64
	pods       map[types.UID]*podReceipts

	mu    sync.Mutex // guards heard while pods are asked
	heard map[pullKey]heard
}

// podReceipts is what is remembered of one pod.
type podReceipts struct {
	since   int64         // the sequence of its last receipt
	budget  *rate.Limiter // of Artifacts that are made on its word
	refused bool          // it told of a pull that its ledger does not prove
}

// pullKey names an image with a digest.
type pullKey struct{ image, digest string }

// heard is a pull for which something is still to be done.
type heard struct {
	last time.Time
	pod  types.UID // that told of it last
}

// Reconcile reads what is new of a node's receipts.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	n := new(v1alpha1.PyrsiaNode)
	err := r.Client.Get(ctx, req.NamespacedName, n)
	if err != nil || !n.DeletionTimestamp.IsZero() || !servesClients(n) {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	again := ctrl.Result{RequeueAfter: receiptInterval}
	if n.Status.Ledger == nil {
		return again, nil // there is no key yet to verify with
	}
	pods, err := r.Nodes.ReadyPods(ctx, n)
	if err != nil {
		return ctrl.Result{}, err
	}
	v, err := r.Nodes.Visit(n, nodeclient.ToReceive)
	if err != nil {
		return again, nil
	}
	defer v.End()
	b := r.bookOf(n)
	r.read(ctx, v, b, pods)
	if err := r.ensureArtifacts(ctx, v, b, pods); err != nil {
		return ctrl.Result{}, err
	}
	return again, nil
}

// servesClients tells whether container clients pull from a node.
func servesClients(n *v1alpha1.PyrsiaNode) bool {
	return n.Spec.Role == v1alpha1.RoleMirror || objects.OnPull(n)
}

// bookOf is what is remembered of a node; after a change of the spec all is
// read again, because what was left out may be needed now.
func (r *Reconciler) bookOf(n *v1alpha1.PyrsiaNode) *book {
	key := client.ObjectKeyFromObject(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.books[key]
	if b == nil || b.uid != n.UID || b.generation != n.Generation {
		b = &book{uid: n.UID, generation: n.Generation, pods: map[types.UID]*podReceipts{}, heard: map[pullKey]heard{}}
		r.books[key] = b
	}
	return b
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.books, key)
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.books = map[types.NamespacedName]*book{}
	r.recorder = mgr.GetEventRecorder("receipt-controller")
	return ctrl.NewControllerManagedBy(mgr).
		Named("receipt").
		For(&v1alpha1.PyrsiaNode{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(objects.Options(nodeclient.ReceiptsAtOnce)).
		Complete(r)
}
