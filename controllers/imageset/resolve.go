package imageset

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// defaultInterval is how often tags are resolved again.
const defaultInterval = time.Hour

// resolve asks the publisher to which digests the tags resolve now: a batch of
// those that are due.
func (r *Reconciler) resolve(w *work) status.Step[*v1alpha1.OfficialImageSet] {
	return func(ctx context.Context, set *v1alpha1.OfficialImageSet) (time.Duration, error) {
		if !w.planned {
			return 0, nil
		}
		if set.Spec.Mode == v1alpha1.SetModePlan {
			return untilNext(r.Now(), w.pass.listedAt.Add(interval(set))), nil
		}
		defer func() { // each time, because a single write may be lost
			if !w.pass.running && !w.pass.began.IsZero() {
				set.Status.LastResolvedTime = new(metav1.NewTime(w.pass.began.Truncate(time.Second)))
			}
		}()
		interval, now := interval(set), r.Now()
		due, next := w.pass.due(now, interval, resolveBatch)
		if set.Spec.Suspend || len(due) == 0 {
			if set.Spec.Suspend {
				return 0, nil
			}
			return untilNext(now, next), nil
		}
		answers, err := r.resolveAll(ctx, set, due)
		if err != nil && !nodeclient.IsUnusable(err) {
			return 0, err
		}
		if len(answers) > 0 {
			w.pass.begin(now, due)
		}
		now = r.Now()
		w.pass.noteLimit(answers, now)
		for _, a := range answers {
			w.pass.images[a.image].learn(a, w.pass.began, now)
			if a.err == nil {
				w.pass.seen.note(a.image, a.Digest)
			}
		}
		if err != nil {
			w.notAsked = !nodeclient.IsBusy(err) // what is known of the tags stands while it is busy
			return nodeclient.NotAsked(set, v1alpha1.ConditionResolved, err)
		}
		due, next = w.pass.due(now, interval, 1)
		if len(due) == 0 {
			w.pass.running = false
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
	image string
	*control.ResolveResponse
	err error // its *control.Error
}

// resolveAll asks for the digests of images. If the publisher cannot be asked, the
// images without an answer are as if they had not been asked for.
func (r *Reconciler) resolveAll(ctx context.Context, set *v1alpha1.OfficialImageSet, images []string) ([]answer, error) {
	node, pods, err := r.Nodes.Usable(ctx, set.Namespace, set.Spec.PublisherRef.Name, "publisher")
	if err != nil {
		return nil, err
	}
	v, err := r.Nodes.Visit(node, nodeclient.ToPlan)
	if err != nil {
		return nil, err
	}
	defer v.End()
	answers := make([]answer, len(images)) // each goroutine owns one
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(nodeclient.ResolveAtOnce)
	for i, image := range images {
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil // another one got no answer
			}
			var resp *control.ResolveResponse
			err := v.Ask(ctx, pods[0], func(ctx context.Context, c *control.Client) (err error) {
				resp, err = c.Resolve(ctx, control.ResolveRequest{Image: image})
				return err
			})
			if err == nil && ledger.CheckDigest(digest.Digest(resp.Digest)) != nil {
				err = &control.Error{Reason: control.ReasonUpstreamInvalid, Message: "the publisher answered with something that is no digest"}
			}
			if _, refused := errors.AsType[*control.Error](err); err != nil && !refused {
				return err
			}
			answers[i] = answer{image, resp, err}
			return nil
		})
	}
	err = group.Wait()
	return slices.DeleteFunc(answers, func(a answer) bool { return a.image == "" }), err
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
			wait := time.Duration(min(l.RetryAfterSeconds, int(nodeclient.MaxRetryAfter.Seconds()))) * time.Second
			p.rateLimit.RetryTime = new(metav1.NewTime(now.Add(wait).Truncate(time.Second)))
		}
	}
}

// count32 bounds a number that came from outside.
func count32(n int) int32 { return int32(min(max(n, 0), math.MaxInt32)) }

// learn keeps an answer. began is the pass it belongs to.
func (i *resolution) learn(a answer, began, now time.Time) {
	if a.err == nil {
		*i = resolution{at: began, digest: a.Digest, moved: a.Current != "" && a.Current != a.Digest}
		return
	}
	failure := &v1alpha1.ImageFailure{Image: a.image}
	i.failures++
	wait := backoff(i.failures)
	if refusal, ok := errors.AsType[*control.Error](a.err); ok {
		failure.Reason, failure.Message = nodeclient.ConditionReason(refusal.Reason), status.Bounded(refusal.Message, status.MaxMessage)
		wait = max(wait, nodeclient.RetryAfter(refusal))
	}
	i.retryAt = now.Add(wait)
	failure.NextTry = new(metav1.NewTime(i.retryAt.Truncate(time.Second)))
	if i.failure == nil || i.failure.Reason != failure.Reason {
		i.failure = failure // else the first message stays: it may differ each time
		return
	}
	i.failure.NextTry = failure.NextTry
}
