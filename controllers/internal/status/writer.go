package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// Summarize derives Ready, Reconciling and Stalled from the steps. remarks are
// conditions that Ready tells of although it is True.
func Summarize(obj Object, remarks []string, err error) {
	*obj.ObservedGeneration() = obj.GetGeneration()
	for _, name := range obj.Steps() {
		c := meta.FindStatusCondition(*obj.Conditions(), name)
		if c != nil && c.Status == metav1.ConditionTrue {
			continue
		}
		if c == nil {
			c = &metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonProgressing, Message: "waiting for " + name}
		}
		setCondition(obj, v1alpha1.ConditionReady, c.Status, c.Reason, c.Message)
		running, stopped := v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled
		if errors.Is(err, reconcile.TerminalError(nil)) {
			running, stopped = stopped, running
		}
		setCondition(obj, running, metav1.ConditionTrue, c.Reason, c.Message)
		meta.RemoveStatusCondition(obj.Conditions(), stopped)
		return
	}
	reason, message := v1alpha1.ReasonSucceeded, "All steps are done"
	for _, name := range remarks {
		if c := meta.FindStatusCondition(*obj.Conditions(), name); c != nil && c.Status == metav1.ConditionFalse {
			reason, message = c.Reason, message+"; but "+c.Message
		}
	}
	SetDone(obj, v1alpha1.ConditionReady, reason, message)
	meta.RemoveStatusCondition(obj.Conditions(), v1alpha1.ConditionReconciling)
	meta.RemoveStatusCondition(obj.Conditions(), v1alpha1.ConditionStalled)
}

// Writer is the one writer of a kind's status. What a kind does in a way of
// its own, it says in the fields that may be left out.
type Writer[T Object] struct {
	Client   client.Client
	Recorder events.EventRecorder
	// Remarks are conditions beside the steps that are reported as events, and in
	// Ready's message although that is True.
	Remarks []string
	// Routine tells of a condition that has become True whether that is worth no event.
	Routine func(was *metav1.Condition, is metav1.Condition) bool
	// TellMore records events that are not transitions of a step. conditions are
	// those of after.
	TellMore func(before, after T, conditions []metav1.Condition)
}

// staleRead is when to look again at an object that has changed since it was read:
// the cache is behind with it.
const staleRead = 200 * time.Millisecond

// Finish sums up the steps, writes the status if it changed, and then tells
// the transitions as events. What was found out about an older state of the object is
// not written over what is known of the newest one.
func (w Writer[T]) Finish(ctx context.Context, before, after T, next time.Duration, err error) (ctrl.Result, error) {
	Summarize(after, w.Remarks, err)
	if !equality.Semantic.DeepEqual(before, after) {
		conditions := *after.Conditions()                     // the answer to the patch overwrites after
		before.SetResourceVersion(after.GetResourceVersion()) // a step may have written to the object itself
		patchErr := w.Client.Status().Patch(ctx, after, UnlessChanged(before))
		switch {
		case apierrors.IsConflict(patchErr):
			return ctrl.Result{RequeueAfter: staleRead}, nil
		case apierrors.IsNotFound(patchErr):
			return ctrl.Result{}, nil
		case patchErr != nil: // err is found again; a terminal one would end the retries
			return ctrl.Result{}, fmt.Errorf("writing the status: %w", patchErr)
		}
		w.tell(before, after, conditions)
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// UnlessChanged is the patch from an object to what it is to be: a conflict if it has
// changed since it was read.
func UnlessChanged(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

func (w Writer[T]) tell(before, after T, conditions []metav1.Condition) {
	if w.TellMore != nil {
		w.TellMore(before, after, conditions)
	}
	for _, name := range slices.Concat(after.Steps(), w.Remarks) {
		was := meta.FindStatusCondition(*before.Conditions(), name)
		is := meta.FindStatusCondition(conditions, name)
		if is == nil || is.Status == metav1.ConditionUnknown || was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		if is.Status == metav1.ConditionTrue && w.Routine != nil && w.Routine(was, *is) {
			continue
		}
		kind := corev1.EventTypeNormal
		if is.Status == metav1.ConditionFalse {
			kind = corev1.EventTypeWarning
		}
		w.Recorder.Eventf(after, nil, kind, is.Reason, name, "%s", is.Message)
	}
}
