// Package controllers holds the operator's controllers. Each brings one kind
// of the API forward in steps; a step is a file, and has a condition.
package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// The field indexes of the cache.
const (
	// indexPublisher finds the mirrors and the image sets of a publisher.
	indexPublisher = "publisher"
	// indexStage finds the Artifacts of a publisher that wait for something.
	indexStage = "stage"
	// indexDigest finds the Artifacts of a digest, and indexWithdrawal those of them
	// that have withdrawn or restored it.
	indexDigest     = "digest"
	indexWithdrawal = "withdrawal"
	// indexSet finds the Artifacts of an OfficialImageSet and indexNode those of a
	// PyrsiaNode, by its UID.
	indexSet  = "set"
	indexNode = "node"
)

// Config is what the controllers need besides a manager.
type Config struct {
	Keys *Keyring
	// NodeImage is the container image of PyrsiaNodes that name none, and of the
	// containers that run as root or on the host's network.
	NodeImage string
	// KeysEvery is how often the Secrets of a PyrsiaNode are written again while
	// its pods do not get ready or do not answer; 0 is a minute.
	KeysEvery time.Duration
	// KeyOverlap is for how long a publisher's old and new signing key both sign,
	// at least; 0 is a day.
	KeyOverlap time.Duration
	// Hosts is what PyrsiaNodes may reach on Kubernetes nodes.
	Hosts HostRules
	// Metrics is where the status of the objects is shown.
	Metrics prometheus.Registerer
}

// LoadKeyring reads the operator's seeds from the Secret in its namespace, and makes
// them when there are none. c must not be a caching client: that would need the right
// to list Secrets. The seeds are rotated when they are older than lifetime.
func LoadKeyring(ctx context.Context, c client.Client, namespace string, lifetime time.Duration) (*Keyring, error) {
	return loadKeyring(ctx, c, namespace, lifetime)
}

// CacheOptions keep out of the cache what the controllers do not read.
func CacheOptions(hosts HostRules) cache.Options {
	return cacheOptions(hosts.Namespace, hosts.Namespaces)
}

// Setup registers the controllers with a manager.
func Setup(ctx context.Context, mgr ctrl.Manager, config Config) error {
	if err := setupIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	config.Keys.RotateWhenElected(mgr.Elected())
	if err := mgr.Add(config.Keys); err != nil {
		return fmt.Errorf("adding the rotation of the control keys: %w", err)
	}
	if err := mgr.Add(&statusCollector{mgr.GetClient(), config.Metrics}); err != nil {
		return fmt.Errorf("adding the metrics of the objects: %w", err)
	}
	nodes, pulls := NewNodes(mgr.GetClient(), config.Keys, time.Now), NewPulls()
	sets := &OfficialImageSetReconciler{Client: mgr.GetClient(), Nodes: nodes, Now: time.Now}
	for _, r := range []interface{ SetupWithManager(ctrl.Manager) error }{
		newNodeReconciler(nodeConfig{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("pyrsianode-controller"),
			Nodes: nodes, Keys: config.Keys, NodeImage: config.NodeImage,
			KeysEvery: config.KeysEvery, KeyOverlap: config.KeyOverlap, Hosts: config.Hosts, Now: time.Now,
		}),
		sets,
		&ArtifactReconciler{Client: mgr.GetClient(), Nodes: nodes, Pulls: pulls, Saw: sets.Saw, Now: time.Now},
		&ReceiptReconciler{Client: mgr.GetClient(), Nodes: nodes, Pulls: pulls, Now: time.Now},
	} {
		if err := r.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("setting up %T: %w", r, err)
		}
	}
	return nil
}

func setupIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	publisherOf := func(obj client.Object) []string {
		switch o := obj.(type) {
		case *v1alpha1.PyrsiaNode:
			if o.Spec.Network != nil && o.Spec.Network.PublisherRef != nil {
				return []string{o.Spec.Network.PublisherRef.Name}
			}
		case *v1alpha1.OfficialImageSet:
			return []string{o.Spec.PublisherRef.Name}
		}
		return nil
	}
	for _, index := range []struct {
		obj   client.Object
		field string
		value client.IndexerFunc
	}{
		{&v1alpha1.PyrsiaNode{}, indexPublisher, publisherOf},
		{&v1alpha1.OfficialImageSet{}, indexPublisher, publisherOf},
		{&v1alpha1.Artifact{}, indexStage, stageOf},
		{&v1alpha1.Artifact{}, indexDigest, digestOf},
		{&v1alpha1.Artifact{}, indexWithdrawal, withdrawnDigestOf},
		{&v1alpha1.Artifact{}, indexSet, setsThatMade},
		{&v1alpha1.Artifact{}, indexNode, nodesOf},
	} {
		if err := indexer.IndexField(ctx, index.obj, index.field, index.value); err != nil {
			return fmt.Errorf("indexing %T by %s: %w", index.obj, index.field, err)
		}
	}
	return nil
}

// options limit how many objects are worked on at once, and back off from
// errors: from a second to half a minute. Errors are the API server's, which may
// be back at any moment; what a registry or a node refuses has waits of its own.
func options(atOnce int) controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: atOnce,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 30*time.Second),
	}
}

// usabilityChanged passes changes of a PyrsiaNode that matter to those who
// refer to it; growth of its ledger is not among them.
var usabilityChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*v1alpha1.PyrsiaNode)
		is, ok2 := e.ObjectNew.(*v1alpha1.PyrsiaNode)
		if !ok1 || !ok2 {
			return false
		}
		return ledgerKey(was) != ledgerKey(is) ||
			conditionStatus(was, v1alpha1.ConditionWorkloadReady) != conditionStatus(is, v1alpha1.ConditionWorkloadReady) ||
			conditionStatus(was, v1alpha1.ConditionLedgerVerified) != conditionStatus(is, v1alpha1.ConditionLedgerVerified)
	},
}

// ledgerKey is the key of a publisher that is pinned; empty until it is known.
func ledgerKey(n *v1alpha1.PyrsiaNode) string {
	if n.Status.Ledger == nil {
		return ""
	}
	return n.Status.Ledger.Key
}

func conditionStatus(obj object, name string) metav1.ConditionStatus {
	if c := meta.FindStatusCondition(*obj.Conditions(), name); c != nil {
		return c.Status
	}
	return metav1.ConditionUnknown
}

func requests[T any, P interface {
	*T
	client.Object
}](items []T) []reconcile.Request {
	out := make([]reconcile.Request, len(items))
	for i := range items {
		obj := P(&items[i])
		out[i].NamespacedName = types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
	}
	return out
}
