package controllers

import (
	"context"
	"errors"
	"math"
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
		if !w.planned {
			return 0, nil
		}
		if set.Spec.Mode == v1alpha1.SetModePlan {
			return untilNext(r.Now(), w.pass.listedAt.Add(interval(set))), nil
		}
		interval, now := interval(set), r.Now()
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
		answers := resolveAll(ctx, node, due)
		now = r.Now()
		w.pass.noteLimit(answers, now)
		for i, image := range due {
			w.pass.images[image].learn(image, answers[i], w.pass.began, now)
			if answers[i].err == nil {
				w.pass.seen.note(image, answers[i].Digest)
			}
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

func resolveAll(ctx context.Context, node *control.Client, images []string) []answer {
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

// noteLimit keeps what the answers tell of the upstream's limits.
func (p *pass) noteLimit(answers []answer, now time.Time) {
	for _, a := range answers {
		if a.err != nil || a.RateLimit == nil {
			continue
		}
		l := a.RateLimit
		p.rateLimit = &v1alpha1.RateLimit{Limit: count32(l.Limit), Remaining: count32(l.Remaining), WindowSeconds: count32(l.WindowSeconds)}
		if l.RetryAfterSeconds > 0 {
			wait := time.Duration(min(l.RetryAfterSeconds, int(maxRetryAfter.Seconds()))) * time.Second
			p.rateLimit.RetryTime = new(metav1.NewTime(now.Add(wait).Truncate(time.Second)))
		}
	}
}

// count32 bounds a number that came from outside.
func count32(n int) int32 { return int32(min(max(n, 0), math.MaxInt32)) }

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
	failure.NextTry = new(metav1.NewTime(i.retryAt.Truncate(time.Second)))
	if i.failure == nil || i.failure.Reason != failure.Reason {
		i.failure = failure // else the first message stays: it may differ each time
		return
	}
	i.failure.NextTry = failure.NextTry
}
