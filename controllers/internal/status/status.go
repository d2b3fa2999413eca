// Package status brings an object forward in steps, each of which sets one condition,
// and writes its status: one patch from one writer, then events for the transitions.
// It imports the API alone. All controllers call it.
package status

import (
	"context"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// MaxMessage bounds a condition's message in bytes.
const MaxMessage = 1024

// Object is a kind of this API.
type Object interface {
	client.Object
	Conditions() *[]metav1.Condition
	ObservedGeneration() *int64
	Steps() []string
}

// Step brings an object one condition further. It sets that condition, and
// returns after which time it wants to be called again (0: when something
// changes). It does nothing while the condition before it isn't True.
type Step[T Object] func(ctx context.Context, obj T) (time.Duration, error)

// Run calls the steps in order, and stops at the first error.
func Run[T Object](ctx context.Context, obj T, steps ...Step[T]) (time.Duration, error) {
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

// SetDone sets a step's condition to True; SetWaiting sets it to Unknown and SetFailed to False.
func SetDone(obj Object, condition, reason, message string) {
	setCondition(obj, condition, metav1.ConditionTrue, reason, message)
}

func SetWaiting(obj Object, condition, reason, message string) {
	setCondition(obj, condition, metav1.ConditionUnknown, reason, message)
}

func SetFailed(obj Object, condition, reason, message string) {
	setCondition(obj, condition, metav1.ConditionFalse, reason, message)
}

// SetRefused is SetFailed with a message from outside, which may differ from
// one attempt to the next (addresses, request IDs): the first one stays.
func SetRefused(obj Object, condition, reason, message string) {
	if c := meta.FindStatusCondition(*obj.Conditions(), condition); c != nil && c.Status == metav1.ConditionFalse &&
		c.Reason == reason && c.ObservedGeneration == obj.GetGeneration() {
		return
	}
	SetFailed(obj, condition, reason, message)
}

func setCondition(obj Object, condition string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(obj.Conditions(), metav1.Condition{
		Type:               condition,
		Status:             status,
		Reason:             reason,
		Message:            Bounded(message, MaxMessage),
		ObservedGeneration: obj.GetGeneration(),
	})
}

// Bounded shortens a text to so many bytes of valid UTF-8.
func Bounded(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "..."
}

// IsTrue tells whether a condition is True.
func IsTrue(obj Object, condition string) bool {
	return meta.IsStatusConditionTrue(*obj.Conditions(), condition)
}
