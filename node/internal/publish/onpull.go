package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// OnPull says what a publisher does when a client pulls an image from it that
// is not on the ledger. The zero value refuses.
type OnPull struct {
	// Allow are patterns of the images that are published then (see
	// ledger.Image.Matches).
	Allow []string
	// PerHour bounds how many images are begun in an hour; 0 is no bound.
	PerHour int
}

// Allows tells whether an image is published when it is pulled.
func (o OnPull) Allows(i ledger.Image) bool { return i.Matches(o.Allow) }

// pulls is the state of publications on demand.
type pulls struct {
	asking singleflight.Group

	mu     sync.Mutex // guards begun
	begun  []time.Time
	config OnPull
}

func newPulls(c OnPull) pulls { return pulls{config: c} }

// take counts a publication, unless there were enough in the last hour.
func (p *pulls) take(now time.Time) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = slices.DeleteFunc(p.begun, func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	if p.config.PerHour > 0 && len(p.begun) >= p.config.PerHour {
		return time.Hour - now.Sub(p.begun[0]), false
	}
	p.begun = append(p.begun, now)
	return 0, true
}

// Pull publishes an image because a client asked for it, and returns when it
// is on the ledger. However many ask, it is fetched once. When ctx ends before
// that, the work goes on, and the refusal says when to ask again.
func (p *Publisher) Pull(ctx context.Context, image ledger.Image) error {
	if !p.OnPull.Allows(image) {
		return ledger.ErrNotFound
	}
	begun := p.pulls.asking.DoChan(image.String(), func() (any, error) { return p.begin(image) })
	var j *job
	select {
	case r := <-begun:
		if r.Err != nil {
			return r.Err
		}
		j = r.Val.(*job)
	case <-ctx.Done():
		return later(image)
	}
	select {
	case <-j.ended:
		p.forget(j)
		if withdrawn, ok := errors.AsType[*ledger.WithdrawnError](j.err); ok {
			return withdrawn
		}
		return p.refusal(j.err, j.image, j.registry)
	case <-ctx.Done():
		return later(image)
	}
}

func later(image ledger.Image) error {
	return &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: 10,
		Message: fmt.Sprintf("%s is being published: pull it again in a while", image)}
}

// begin starts the publication of an image, whatever becomes of who asked.
func (p *Publisher) begin(image ledger.Image) (*job, error) {
	ctx, cancel := context.WithTimeout(p.ctx, quickWait)
	defer cancel()
	if j := p.underWay(image); j != nil {
		return j, nil
	}
	_, registry, err := p.upstream(image.String())
	if err != nil {
		return nil, err
	}
	if wait, ok := p.pulls.take(time.Now()); !ok {
		return nil, &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: int(wait.Seconds()) + 1,
			Message: fmt.Sprintf("%s is not on the ledger, and %d images were published on demand in the last hour: that is all that spec.publisher.onPull allows", image, p.OnPull.PerHour)}
	}
	seen, err := p.look(ctx, image, registry)
	if err != nil {
		return nil, p.refusal(err, image, registry)
	}
	if _, err := p.latest(ctx, image, seen.digest); err != nil {
		return nil, err
	}
	p.sightings.note(image, seen)
	return p.start(&job{key: key{image.String(), seen.digest}, image: image, registry: registry})
}

// underWay finds the job of an image, whatever its digest.
func (p *Publisher) underWay(image ledger.Image) *job {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, j := range p.jobs {
		if k.image == image.String() && !j.over() {
			return j
		}
	}
	return nil
}
