package objects

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
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
var UsabilityChanged = Changed(func(was, is *v1alpha1.PyrsiaNode) bool {
	return LedgerKey(was) != LedgerKey(is) ||
		conditionStatus(was, v1alpha1.ConditionWorkloadReady) != conditionStatus(is, v1alpha1.ConditionWorkloadReady) ||
		conditionStatus(was, v1alpha1.ConditionLedgerVerified) != conditionStatus(is, v1alpha1.ConditionLedgerVerified)
})

// Changed passes the updates that change what is asked for, and all that comes or goes.
func Changed[T client.Object](what func(was, is T) bool) predicate.Funcs {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(T)
		is, ok2 := e.ObjectNew.(T)
		return ok1 && ok2 && what(was, is)
	}}
}

// OnlyChanged passes those updates alone.
func OnlyChanged[T client.Object](what func(was, is T) bool) predicate.Funcs {
	p := Changed(what)
	p.CreateFunc = func(event.CreateEvent) bool { return false }
	p.DeleteFunc = func(event.DeleteEvent) bool { return false }
	return p
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

// Find lists what a watch is to wake. It has only the log to tell of an error.
func Find(ctx context.Context, c client.Reader, list client.ObjectList, opts ...client.ListOption) (out []reconcile.Request) {
	if err := c.List(ctx, list, append(opts, client.UnsafeDisableDeepCopy)...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing what a watch is to wake", "list", fmt.Sprintf("%T", list))
		return nil
	}
	_ = meta.EachListItem(list, func(item runtime.Object) error { // it fails if this does
		out = append(out, Request(item.(client.Object)))
		return nil
	})
	return out
}

// Request is to reconcile an object.
func Request(obj client.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)}
}
