package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// queue lets images be copied in turns of their repositories. The publisher's
// mu guards it.
type queue struct {
	turns   []string          // repositories with waiting jobs, whose turn is next first
	waiting map[string][]*job // by repository, the oldest first
	running map[string]int    // by repository
	busy    int               // jobs that run
	limit   int               // of busy
}

func (q *queue) push(j *job) {
	if q.waiting == nil {
		q.waiting, q.running = map[string][]*job{}, map[string]int{}
	}
	repository := j.image.Name()
	if len(q.waiting[repository]) == 0 {
		q.turns = append(q.turns, repository)
	}
	q.waiting[repository] = append(q.waiting[repository], j)
}

// pop takes the next job that may run now.
func (q *queue) pop() *job {
	if q.busy == q.limit {
		return nil
	}
	for i, repository := range q.turns {
		if q.running[repository] == max(q.limit/2, 1) {
			continue // a repository that is slow leaves room for the others
		}
		jobs := q.waiting[repository]
		q.turns = append(q.turns[:i:i], q.turns[i+1:]...)
		if q.waiting[repository] = jobs[1:]; len(jobs) > 1 {
			q.turns = append(q.turns, repository)
		} else {
			delete(q.waiting, repository)
		}
		q.running[repository]++
		q.busy++
		return jobs[0]
	}
	return nil
}

// release gives a job's place to another.
func (q *queue) release(j *job) {
	q.busy--
	if q.running[j.image.Name()]--; q.running[j.image.Name()] == 0 {
		delete(q.running, j.image.Name())
	}
}

// start starts a publication, or gives the one of the image and digest that is
// under way.
func (p *Publisher) start(j *job) (*job, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.jobs[j.key]; ok {
		return old, nil
	}
	if len(p.jobs) >= maxJobs {
		maps.DeleteFunc(p.jobs, func(_ key, j *job) bool { return j.over() }) // failures whose callers are gone
	}
	if len(p.jobs) >= maxJobs || p.closed {
		return nil, &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: 10, Message: "the publisher has enough to do: ask again later"}
	}
	j.ended = make(chan struct{})
	p.jobs[j.key] = j
	p.queue.push(j)
	p.dispatch()
	return j, nil
}

// run starts jobs until ctx ends, which is what they work with.
func (p *Publisher) run(ctx context.Context) {
	for {
		select {
		case j := <-p.begin:
			p.done.Go(func() { p.work(ctx, j) })
		case <-ctx.Done():
			return
		}
	}
}

// dispatch has as many jobs started as may run; the caller holds mu.
func (p *Publisher) dispatch() {
	for {
		j := p.queue.pop()
		if j == nil {
			return
		}
		j.begun = time.Now()
		p.begin <- j // there is room
	}
}

// began is when the work at a job began; zero while it waits for others.
func (p *Publisher) began(j *job) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return j.begun
}

// work copies an image, gives its place to the next one, and then appends its
// block: many appends share one checkpoint.
func (p *Publisher) work(ctx context.Context, j *job) {
	defer close(j.ended)
	p.content.RLock()
	defer p.content.RUnlock()
	started := time.Now()
	entries, err := p.copy(ctx, j)
	if j.block != nil {
		p.haveLooked(j, err)
	}
	p.mu.Lock()
	p.queue.release(j)
	p.dispatch()
	p.mu.Unlock()
	for _, e := range entries {
		if err == nil {
			j.height, err = p.append(ctx, j, e)
		}
	}
	if j.err = err; err != nil {
		p.pulls.drop(j.claim)
		p.metrics.failed(err)
		p.Log.Warn("publication failed", "image", j.key.image, "digest", j.key.digest, "error", err)
		return
	}
	if j.block != nil && len(entries) == 0 {
		return
	}
	p.forget(j) // the ledger tells from now on
	p.metrics.published(j.progress.Done.Load())
	p.Log.Info("published", "image", j.key.image, "digest", j.key.digest, "block", j.height,
		"bytes", j.progress.Total.Load(), "took", time.Since(started).Round(time.Millisecond).String())
}

// copy brings an image to the store, and the signatures that hang on it, or of
// an image that is published what is new of that. The image's entry is the last
// one. The upstream is asked about the tag first: what is not to be published is
// not copied. Crash before the appends: blobs without a block, which the next
// attempt finds in the store; it asks about the tag again.
func (p *Publisher) copy(ctx context.Context, j *job) ([]*ledger.AddArtifact, error) {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	if j.block != nil {
		return p.attachments(ctx, j)
	}
	if j.recorded == nil {
		if err := p.vouch(ctx, j); err != nil {
			return nil, err
		}
	}
	before, err := p.before(ctx, j)
	if err != nil {
		return nil, err
	}
	image, err := j.registry.Copy(ctx, j.image, j.key.digest, upstream.Selection{Platforms: j.platforms, Recorded: before}, p.Store, &j.progress)
	if err != nil {
		return nil, err
	}
	entries, err := p.signatures(ctx, j)
	return append(entries, image), err
}

// before is what the newest block of a job's image and digest says, if that one
// stands: a job takes no platforms away that others had published. Only the job
// of an image and digest makes such blocks, so none comes in between.
func (p *Publisher) before(ctx context.Context, j *job) (*ledger.AddArtifact, error) {
	e, err := p.Writer.Find(ctx, j.image, j.key.digest)
	if errors.Is(err, ledger.ErrNotFound) {
		e, err = nil, nil
	}
	if err == nil {
		e, err = p.standing(ctx, j.image, j.key.digest, e)
	}
	if err != nil || e == nil {
		return nil, err
	}
	return e.Artifact, nil
}

func (p *Publisher) append(ctx context.Context, j *job, e *ledger.AddArtifact) (int64, error) {
	p.Provide(e.Pieces)
	switch {
	case e.Artifact != j.key.image:
		return p.recordSignature(ctx, j, e)
	case j.block != nil:
		return p.recordAttached(ctx, e)
	case j.recorded != nil && j.recorded.Artifact.Includes(e):
		return j.recorded.Height, nil // its content is there again
	}
	return p.record(ctx, j, e)
}

func (p *Publisher) forget(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jobs[j.key] == j {
		delete(p.jobs, j.key)
	}
}

// over tells whether the job has ended.
func (j *job) over() bool {
	select {
	case <-j.ended:
		return true
	default:
		return false
	}
}

// refusal says to the operator what went wrong upstream, and what to do.
func (p *Publisher) refusal(err error, image ledger.Image, r *upstream.Registry) error {
	if withdrawn, ok := errors.AsType[*ledger.WithdrawnError](err); ok {
		return &control.Error{Reason: control.ReasonRevoked,
			Message: fmt.Sprintf("%v: publish another digest; who may restore images can lift it by the state Restored of an Artifact", withdrawn)}
	}
	u, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		return err
	}
	cause := u.Cause()
	switch u.Kind {
	case upstream.NotFound:
		return &control.Error{Reason: control.ReasonImageNotFound,
			Message: fmt.Sprintf("%s does not exist at %s: check the repository and the tag (%v)%s", image, r.Host(), cause, withoutLogin(image, r))}
	case upstream.Unauthorized:
		return &control.Error{Reason: control.ReasonUpstreamUnauthorized,
			Message: fmt.Sprintf("%s refuses the login for %s, wants one, or has no such repository: check its name, and the Secret in spec.publisher.upstreams (%v)", r.Host(), image, cause)}
	case upstream.Private:
		return &control.Error{Reason: control.ReasonRepositoryPrivate,
			Message: fmt.Sprintf("%s shows %s to the publisher's login alone, and what is published is public: if it may be, list %q in privateRepositories of its upstream in spec.publisher.upstreams (%v)", r.Host(), image.Name(), image.Repository, cause)}
	case upstream.RateLimited:
		return &control.Error{Reason: control.ReasonUpstreamRateLimited, RetryAfterSeconds: max(1, int(u.RetryAfter.Seconds()+0.999)),
			Message: fmt.Sprintf("%s limits the rate of pulls: the operator goes on when it may; credentials in spec.publisher.upstreams may raise the limit", r.Host())}
	case upstream.Invalid:
		return &control.Error{Reason: control.ReasonUpstreamInvalid,
			Message: fmt.Sprintf("%s sent content that was refused: %v", r.Host(), u)}
	case upstream.NoSpace:
		return &control.Error{Reason: control.ReasonDiskFull, RetryAfterSeconds: 300, Message: u.Error()}
	default:
		return &control.Error{Reason: control.ReasonUpstreamUnavailable,
			Message: fmt.Sprintf("%s cannot be reached: check spec.publisher.upstreams and the network (%v)", r.Host(), cause)}
	}
}

// withoutLogin explains, if there is a login, that something was not found
// without it.
func withoutLogin(image ledger.Image, r *upstream.Registry) string {
	if !r.WithoutLogin(image.Repository) {
		return ""
	}
	return fmt.Sprintf("; it was asked without the login: if it is private and may be published, list %q in privateRepositories of its upstream in spec.publisher.upstreams", image.Repository)
}
