package objects

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// LedgerSize is how many blocks were verified of a PyrsiaNode.
func LedgerSize(n *v1alpha1.PyrsiaNode) int64 {
	if n.Status.Ledger == nil {
		return 0
	}
	return n.Status.Ledger.Size
}

// Options limit how many objects are worked on in parallel, and back off from
// errors: from a second to half a minute. Errors come from the API server, which
// may be back at any moment; refusals of registries and nodes have their own
// delays.
func Options(atOnce int) controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: atOnce,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 30*time.Second),
	}
}

// UsabilityChanged passes changes of a PyrsiaNode that matter to objects that
// refer to it; growth of its ledger is not among them.
var UsabilityChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*v1alpha1.PyrsiaNode)
		is, ok2 := e.ObjectNew.(*v1alpha1.PyrsiaNode)
		if !ok1 || !ok2 {
			return false
		}
		return LedgerKey(was) != LedgerKey(is) ||
			conditionStatus(was, v1alpha1.ConditionWorkloadReady) != conditionStatus(is, v1alpha1.ConditionWorkloadReady) ||
			conditionStatus(was, v1alpha1.ConditionLedgerVerified) != conditionStatus(is, v1alpha1.ConditionLedgerVerified)
	},
}

// LedgerKey is the key of a publisher that is pinned; empty until it is known.
func LedgerKey(n *v1alpha1.PyrsiaNode) string {
	if n.Status.Ledger == nil {
		return ""
	}
	return n.Status.Ledger.Key
}

func conditionStatus(obj status.Object, name string) metav1.ConditionStatus {
	if c := meta.FindStatusCondition(*obj.Conditions(), name); c != nil {
		return c.Status
	}
	return metav1.ConditionUnknown
}

// Requests are those to reconcile each item of a list.
func Requests[T any, P interface {
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
