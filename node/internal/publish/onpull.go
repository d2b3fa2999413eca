package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// OnPull says what a publisher does when a client pulls an image from it that
// is not on the ledger. The zero value refuses.
type OnPull struct {
	// Allow are patterns of the images that are published then (see
	// ledger.Image.Matches).
	Allow []string
	// PerHour bounds how many images are published in an hour; 0 means
	// unlimited. Requests for images that do not exist or cannot be published
	// do not count.
	PerHour int
}

// Allows tells whether an image is published when it is pulled.
func (o OnPull) Allows(i ledger.Image) bool { return i.Matches(o.Allow) }

const (
	// maxLooks is how many images are looked up on demand in parallel.
	maxLooks = 8
	// absentFor is for how long an image that its upstream did not have is not
	// asked for again, and maxAbsent how many of them are remembered.
	absentFor = 10 * time.Second
	maxAbsent = 1024
)

// pulls is the state of publications on demand.
type pulls struct {
	asking singleflight.Group
	looks  chan struct{}
	absent *lru.Cache[string, absence]

	mu     sync.Mutex // guards counts
	counts []*claim   // the oldest first
	config OnPull
}

// absence is why an image was not there, and when.
type absence struct {
	err error
	at  time.Time
}

// claim is one publication that counts, unless it fails.
type claim struct{ begun time.Time }

func newPulls(c OnPull) pulls {
	absent, err := lru.New[string, absence](maxAbsent)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return pulls{config: c, looks: make(chan struct{}, maxLooks), absent: absent}
}

// full is how long it takes until another publication is allowed; 0 if it is now.
func (p *pulls) full(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wait(now)
}

// take counts a publication, unless there were enough in the last hour.
func (p *pulls) take(now time.Time) (c *claim, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if wait := p.wait(now); wait > 0 {
		return nil, wait
	}
	c = &claim{now}
	p.counts = append(p.counts, c)
	return c, 0
}

// wait is full; the caller holds mu.
func (p *pulls) wait(now time.Time) time.Duration {
	p.counts = slices.DeleteFunc(p.counts, func(c *claim) bool { return now.Sub(c.begun) >= time.Hour })
	if p.config.PerHour > 0 && len(p.counts) >= p.config.PerHour {
		return time.Hour - now.Sub(p.counts[0].begun)
	}
	return 0
}

// drop has a publication that came to nothing count no more; nil did not count.
func (p *pulls) drop(c *claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = slices.DeleteFunc(p.counts, func(o *claim) bool { return o == c })
}

// Pull publishes an image because a client asked for it, and returns when it
// is on the ledger. However many ask, it is fetched once. When ctx ends before
// that, the work goes on, and the refusal says when to ask again.
func (p *Publisher) Pull(ctx context.Context, image ledger.Image) error {
	if !p.OnPull.Allows(image) {
		return ledger.ErrNotFound
	}
	for {
		begun := p.pulls.asking.DoChan(image.String(), func() (any, error) {
			// It goes on if the client leaves.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quickWait)
			defer cancel()
			return p.beginPull(ctx, image)
		})
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
		if j == nil {
			return nil
		}
		select {
		case <-j.ended:
			p.forget(j)
		case <-ctx.Done():
			return later(image)
		}
		if len(j.platforms) > 0 {
			continue // somebody else's: the client's platform may not be among them
		}
		if withdrawn, ok := errors.AsType[*ledger.WithdrawnError](j.err); ok {
			return withdrawn
		}
		return p.refusal(j.err, j.image, j.registry)
	}
}

func later(image ledger.Image) error {
	return &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: 10,
		Message: fmt.Sprintf("%s is being published: pull it again in a while", image)}
}

// beginPull starts the publication of an image. There is no job if all of the image
// is on the ledger by now.
func (p *Publisher) beginPull(ctx context.Context, image ledger.Image) (*job, error) {
	if j := p.underWay(image); j != nil {
		return j, nil
	}
	_, registry, err := p.upstream(image.String())
	if err != nil {
		return nil, err
	}
	if absent, ok := p.pulls.absent.Get(image.String()); ok && time.Since(absent.at) < absentFor {
		return nil, absent.err
	}
	if wait := p.pulls.full(time.Now()); wait > 0 {
		return nil, p.enough(image, wait)
	}
	seen, err := p.lookOnDemand(ctx, image, registry)
	if err != nil {
		return nil, err
	}
	latest, err := p.latest(ctx, image, seen.digest)
	if err != nil {
		return nil, err
	}
	if latest != nil {
		if whole, err := p.holds(ctx, latest, nil); err != nil || whole {
			return nil, err
		}
	}
	p.sightings.note(image, seen)
	claim, wait := p.pulls.take(time.Now())
	if claim == nil {
		return nil, p.enough(image, wait)
	}
	own := &job{key: key{image.String(), seen.digest}, image: image, registry: registry, claim: claim}
	j, err := p.start(own)
	if err != nil || j != own { // another job counts, or an unbounded caller began it
		p.pulls.drop(claim)
	}
	return j, err
}

func (p *Publisher) enough(image ledger.Image, wait time.Duration) error {
	return &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: int(wait.Seconds()) + 1,
		Message: fmt.Sprintf("%s is not on the ledger, and %d images were published on demand in the last hour: that is all that spec.publisher.onPull allows", image, p.OnPull.PerHour)}
}

// lookOnDemand asks the upstream what a tag is. Clients may ask for any number
// of names: a few are looked up in parallel, and a missing one not again for a
// while.
func (p *Publisher) lookOnDemand(ctx context.Context, image ledger.Image, registry *upstream.Registry) (sighting, error) {
	select {
	case p.pulls.looks <- struct{}{}:
		defer func() { <-p.pulls.looks }()
	case <-ctx.Done():
		return sighting{}, later(image)
	}
	seen, err := p.look(ctx, image, registry)
	if err == nil {
		return seen, nil
	}
	err = p.refusal(err, image, registry)
	if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonImageNotFound {
		p.pulls.absent.Add(image.String(), absence{err, time.Now()})
	}
	return sighting{}, err
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
