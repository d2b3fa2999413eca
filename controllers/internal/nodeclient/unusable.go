package nodeclient

import (
	"cmp"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// WaitForPublisher is when to look again for a publisher that cannot be asked;
// watches tell of most changes earlier.
const WaitForPublisher = time.Minute

// unusableError tells why a node cannot be asked.
type unusableError struct {
	reason, message string
	gone            bool          // there is none
	permanent       bool          // until somebody changes the reference
	busy            bool          // others are asked first
	after           time.Duration // when to try again; 0: in WaitForPublisher
}

func (e *unusableError) Error() string { return e.message }

// NotAsked handles a node that could not be asked, wherever that happens: it says why
// in a condition, and tells when to ask again. Any other error it returns as it is.
func NotAsked(obj status.Object, condition string, err error) (time.Duration, error) {
	e, ok := errors.AsType[*unusableError](err)
	if !ok {
		return 0, err
	}
	// A busy node does not change a condition that is already known.
	if c := meta.FindStatusCondition(*obj.Conditions(), condition); !e.busy || c == nil || c.ObservedGeneration != obj.GetGeneration() {
		status.SetWaiting(obj, condition, e.reason, e.message)
	}
	if e.permanent {
		return 0, reconcile.TerminalError(err)
	}
	wait, _ := AskAgain(err)
	return wait, nil
}

// AskAgain is when to ask a node again that could not be asked; ok is false of any
// other error.
func AskAgain(err error) (wait time.Duration, ok bool) {
	e, ok := errors.AsType[*unusableError](err)
	if !ok {
		return 0, false
	}
	return cmp.Or(e.after, WaitForPublisher), true
}

// IsUnusable tells whether a node could not be asked.
func IsUnusable(err error) bool {
	_, ok := errors.AsType[*unusableError](err)
	return ok
}

// IsBusy tells whether that is because others are asked first.
func IsBusy(err error) bool {
	e, ok := errors.AsType[*unusableError](err)
	return ok && e.busy
}

// IsGone tells whether the node does not exist, or cannot publish.
func IsGone(err error) bool {
	e, ok := errors.AsType[*unusableError](err)
	return ok && (e.gone || e.permanent)
}
