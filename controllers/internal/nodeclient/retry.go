package nodeclient

import (
	"time"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

const (
	// RetryFirst is when something that failed once is tried again.
	RetryFirst = 2 * time.Second
	// MaxRetryAfter bounds how long a node can ask to be left alone.
	MaxRetryAfter = time.Hour
)

// RetryAfter is how long a node asks to be left alone.
func RetryAfter(refusal *control.Error) time.Duration {
	return min(time.Duration(min(refusal.RetryAfterSeconds, int(MaxRetryAfter.Seconds())))*time.Second, MaxRetryAfter)
}

// ConditionReason is a node's reason, if it can stand in a condition.
func ConditionReason(reason control.Reason) string {
	for _, c := range reason {
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return v1alpha1.ReasonInternalError
		}
	}
	if reason == "" || len(reason) > 64 {
		return v1alpha1.ReasonInternalError
	}
	return string(reason)
}
