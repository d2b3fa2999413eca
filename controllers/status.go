package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// maxMessage bounds a condition's message in bytes.
const maxMessage = 1024

// object is a kind of this API.
type object interface {
	client.Object
	Conditions() *[]metav1.Condition
	ObservedGeneration() *int64
	Steps() []string
}

// step brings an object one condition further. It sets that condition, and
// returns after which time it wants to be called again (0: when something
// changes). It does nothing while the condition before it isn't True.
type step[T object] func(ctx context.Context, obj T) (time.Duration, error)

// run calls the steps in order, and stops at the first error.
func run[T object](ctx context.Context, obj T, steps ...step[T]) (time.Duration, error) {
	var next time.Duration
	for _, s := range steps {
		after, err := s(ctx, obj)
		if err != nil {
			return 0, err
		}
		if after > 0 && (next == 0 || after < next) {
			next = after
		}
	}
	return next, nil
}

// setDone, setWaiting and setFailed set a step's condition to True, Unknown and False.
func setDone(obj object, condition, reason, message string) {
	setCondition(obj, condition, metav1.ConditionTrue, reason, message)
}

func setWaiting(obj object, condition, reason, message string) {
	setCondition(obj, condition, metav1.ConditionUnknown, reason, message)
}

func setFailed(obj object, condition, reason, message string) {
	setCondition(obj, condition, metav1.ConditionFalse, reason, message)
}

// setRefused is setFailed with a message from outside, which may differ from
// one attempt to the next (addresses, request IDs): the first one stays.
func setRefused(obj object, condition, reason, message string) {
	if c := meta.FindStatusCondition(*obj.Conditions(), condition); c != nil && c.Status == metav1.ConditionFalse &&
		c.Reason == reason && c.ObservedGeneration == obj.GetGeneration() {
		return
	}
	setFailed(obj, condition, reason, message)
}

func setCondition(obj object, condition string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(obj.Conditions(), metav1.Condition{
		Type:               condition,
		Status:             status,
		Reason:             reason,
		Message:            bounded(message, maxMessage),
		ObservedGeneration: obj.GetGeneration(),
	})
}

func bounded(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "..."
}

// isTrue tells whether a condition is True.
func isTrue(obj object, condition string) bool {
	return meta.IsStatusConditionTrue(*obj.Conditions(), condition)
}

// summarize derives Ready, Reconciling and Stalled from the steps. remarks are
// conditions that Ready tells of although it is True.
func summarize(obj object, remarks []string, err error) {
	*obj.ObservedGeneration() = obj.GetGeneration()
	for _, name := range obj.Steps() {
		c := meta.FindStatusCondition(*obj.Conditions(), name)
		if c != nil && c.Status == metav1.ConditionTrue {
			continue
		}
		if c == nil {
			c = &metav1.Condition{Status: metav1.ConditionUnknown, Reason: "Progressing", Message: "waiting for " + name}
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
	reason, message := "Succeeded", "All steps are done"
	for _, name := range remarks {
		if c := meta.FindStatusCondition(*obj.Conditions(), name); c != nil && c.Status == metav1.ConditionFalse {
			reason, message = c.Reason, message+"; but "+c.Message
		}
	}
	setDone(obj, v1alpha1.ConditionReady, reason, message)
	meta.RemoveStatusCondition(obj.Conditions(), v1alpha1.ConditionReconciling)
	meta.RemoveStatusCondition(obj.Conditions(), v1alpha1.ConditionStalled)
}

// statusWriter is the one writer of a kind's status. What a kind does in a way of
// its own, it says in the fields that may be left out.
type statusWriter[T object] struct {
	client   client.Client
	recorder events.EventRecorder
	// remarks are conditions besides the steps that are told of: as events, and in
	// Ready although that is True.
	remarks []string
	// routine tells of a condition that has become True whether that is worth no event.
	routine func(was *metav1.Condition, is metav1.Condition) bool
	// tellMore records what is no step's transition. conditions are those of after.
	tellMore func(before, after T, conditions []metav1.Condition)
}

// staleRead is when to look again at an object that has changed since it was read:
// the cache is behind with it.
const staleRead = 200 * time.Millisecond

// finish sums up the steps, writes the status if it changed, and then tells
// the transitions as events. What was found out about an older state of the object is
// not written over what is known of the newest one.
func (w statusWriter[T]) finish(ctx context.Context, before, after T, next time.Duration, err error) (ctrl.Result, error) {
	summarize(after, w.remarks, err)
	if !equality.Semantic.DeepEqual(before, after) {
		conditions := *after.Conditions()                     // the answer to the patch overwrites after
		before.SetResourceVersion(after.GetResourceVersion()) // a step may have written to the object itself
		patchErr := w.client.Status().Patch(ctx, after, unlessChanged(before))
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

// unlessChanged is the patch from an object to what it is to be: a conflict if it has
// changed since it was read.
func unlessChanged(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

func (w statusWriter[T]) tell(before, after T, conditions []metav1.Condition) {
	if w.tellMore != nil {
		w.tellMore(before, after, conditions)
	}
	for _, name := range slices.Concat(after.Steps(), w.remarks) {
		was := meta.FindStatusCondition(*before.Conditions(), name)
		is := meta.FindStatusCondition(conditions, name)
		if is == nil || is.Status == metav1.ConditionUnknown || was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		if is.Status == metav1.ConditionTrue && w.routine != nil && w.routine(was, *is) {
			continue
		}
		kind := corev1.EventTypeNormal
		if is.Status == metav1.ConditionFalse {
			kind = corev1.EventTypeWarning
		}
		w.recorder.Eventf(after, nil, kind, is.Reason, name, "%s", is.Message)
	}
}

// wrap says what was being done when err happened; nil stays nil.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
