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
func (r *Reconciler) resolve(ctx context.Context, s *imageSet) (time.Duration, error) {
	if !s.planned {
		return 0, nil
	}
	if s.Spec.Mode == v1alpha1.SetModePlan {
		return untilNext(r.Now(), s.listedAt.Add(s.interval())), nil
	}
	defer func() { // each time, because a single write may be lost
		if !s.running && !s.began.IsZero() {
			s.Status.LastResolvedTime = new(metav1.NewTime(s.began.Truncate(time.Second)))
		}
	}()
	if s.Spec.Suspend {
		return 0, nil
	}
	now := r.Now()
	due, next := s.due(now, s.interval(), resolveBatch)
	if len(due) == 0 {
		return untilNext(now, next), nil
	}
	answers, err := r.resolveAll(ctx, s, due)
	if err != nil && !nodeclient.IsUnusable(err) {
		return 0, err
	}
	if len(answers) > 0 {
		s.beginPass(now, due)
	}
	now = r.Now()
	r.learn(s, answers, now)
	if err != nil {
		s.notAsked = !nodeclient.IsBusy(err) // what is known of the tags stands while it is busy
		return nodeclient.NotAsked(s, v1alpha1.ConditionResolved, err)
	}
	due, next = s.due(now, s.interval(), 1)
	if len(due) > 0 {
		return time.Millisecond, nil // the next batch, after the status is written
	}
	s.running = false
	return untilNext(now, next), nil
}

// learn keeps the answers.
func (r *Reconciler) learn(s *imageSet, answers []answer, now time.Time) {
	s.noteLimit(answers, now)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range answers {
		s.images[a.image].learn(a, s.began, now)
		if a.err == nil {
			s.seen[a.image] = a.Digest
		}
	}
}

func untilNext(now, next time.Time) time.Duration {
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), time.Millisecond)
}

// beginPass starts a pass, unless one runs or only failures are tried again.
func (s *imageSet) beginPass(now time.Time, due []string) {
	fresh := slices.ContainsFunc(due, func(image string) bool { return s.images[image].failure == nil })
	if fresh && !s.running {
		s.running, s.began = true, now
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
func (r *Reconciler) resolveAll(ctx context.Context, s *imageSet, images []string) ([]answer, error) {
	node, pods, err := r.Nodes.Usable(ctx, s.Namespace, s.Spec.PublisherRef.Name, "publisher")
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
func (s *imageSet) noteLimit(answers []answer, now time.Time) {
	for _, a := range answers {
		if a.err != nil || a.RateLimit == nil {
			continue
		}
		l := a.RateLimit
		s.rateLimit = &v1alpha1.RateLimit{Limit: count32(l.Limit), Remaining: count32(l.Remaining), WindowSeconds: count32(l.WindowSeconds)}
		if l.RetryAfterSeconds > 0 {
			wait := time.Duration(min(l.RetryAfterSeconds, int(nodeclient.MaxRetryAfter.Seconds()))) * time.Second
			s.rateLimit.RetryTime = new(metav1.NewTime(now.Add(wait).Truncate(time.Second)))
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
