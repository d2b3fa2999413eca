package controllers

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// defaultInterval is how often tags are resolved again.
const defaultInterval = time.Hour

// resolve asks the publisher to which digests the tags resolve now: a batch of
// those that are due.
func (r *OfficialImageSetReconciler) resolve(w *work) step[*v1alpha1.OfficialImageSet] {
	return func(ctx context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
		interval := defaultInterval
		if set.Spec.Interval != nil {
			interval = set.Spec.Interval.Duration
		}
		now := r.Now()
		due, next := w.pass.due(now, interval, resolveBatch)
		if set.Spec.Suspend || len(due) == 0 {
			if set.Spec.Suspend {
				return 0, nil
			}
			return untilNext(now, next), nil
		}
		_, node, err := r.Nodes.publisher(ctx, set.Namespace, set.Spec.PublisherRef.Name)
		if unusable, ok := errors.AsType[*unusableError](err); ok {
			w.unusable = unusable
			if unusable.permanent {
				judgeResolved(set, w)
				return 0, reconcile.TerminalError(err)
			}
			return waitForPublisher, nil
		}
		if err != nil {
			return 0, err
		}
		w.pass.begin(now, due)
		answers := ask(ctx, node, due)
		now = r.Now()
		for i, image := range due {
			w.pass.images[image].learn(image, answers[i], w.pass.began, now)
		}
		due, next = w.pass.due(now, interval, 1)
		if len(due) == 0 && w.pass.running {
			w.pass.running = false
			set.Status.LastResolvedTime = new(metav1.NewTime(w.pass.began.Truncate(time.Second)))
		}
		if len(due) > 0 {
			return time.Millisecond, nil // the next batch, after the status is written
		}
		return untilNext(now, next), nil
	}
}

func untilNext(now, next time.Time) time.Duration {
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), time.Millisecond)
}

// begin starts a pass, unless one runs or only failures are tried again.
func (p *pass) begin(now time.Time, due []string) {
	fresh := slices.ContainsFunc(due, func(image string) bool { return p.images[image].failure == nil })
	if fresh && !p.running {
		p.running, p.began = true, now
	}
}

// answer is what the publisher said about one image.
type answer struct {
	*control.ResolveResponse
	err error
}

func ask(ctx context.Context, node *control.Client, images []string) []answer {
	answers := make([]answer, len(images)) // each goroutine owns one
	var group errgroup.Group
	group.SetLimit(resolveAtOnce)
	for i, image := range images {
		group.Go(func() error {
			resp, err := node.Resolve(ctx, control.ResolveRequest{Image: image})
			if err == nil && ledger.CheckDigest(digest.Digest(resp.Digest)) != nil {
				err = &control.Error{Reason: control.ReasonUpstreamInvalid, Message: "the publisher answered with something that is no digest"}
			}
			answers[i] = answer{resp, err}
			return nil
		})
	}
	_ = group.Wait() // no goroutine fails: answers say what went wrong
	return answers
}

// learn keeps an answer. began is the pass it belongs to.
func (i *resolution) learn(image string, a answer, began, now time.Time) {
	if a.err == nil {
		*i = resolution{at: began, digest: a.Digest, moved: a.Current != "" && a.Current != a.Digest}
		return
	}
	failure := &v1alpha1.ImageFailure{Image: image, Reason: reasonUnreachable, Message: "the publisher's control API does not answer"}
	i.failures++
	wait := backoff(i.failures)
	if refusal, ok := errors.AsType[*control.Error](a.err); ok {
		failure.Reason, failure.Message = conditionReason(refusal.Reason), bounded(refusal.Message, maxMessage)
		wait = max(wait, retryAfter(refusal))
	}
	i.retryAt = now.Add(wait)
	if i.failure == nil || i.failure.Reason != failure.Reason {
		i.failure = failure // else the first message stays: it may differ each time
	}
}
