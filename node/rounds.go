package node

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// nextAfter is after how long without an answer others are asked too, twice
	// as many each time: of fifty sources that hang the last is asked after two
	// seconds.
	nextAfter = 250 * time.Millisecond
	// slowAfter is from when on a source that has not answered counts as slow.
	slowAfter = time.Second
	maxSyncs  = 160 // in parallel: as many as there are peers
	// maxSlow bounds those under way with sources that were slow before.
	maxSlow = 8
	// maxFails is after how many failures in a row a source that was good once
	// is trusted no more than one that never was.
	maxFails = 3
)

// standing is how a source did.
type standing struct {
	good  bool      // it has answered with what could be verified, at least once
	fails int       // in a row
	slow  time.Time // when it was that it did not answer in time
	err   error     // of the last time; nil if it was good
	since time.Time // since when it fails
}

// asking is a source that is being asked.
type asking struct {
	started time.Time
	cancel  context.CancelFunc
	passed  bool // others are asked instead
	slow    bool // it was slow before
	crowded bool // it was given up to make room
}

type ending struct {
	source source
	grown  bool
	err    error
}

// rounds asks all sources for the ledger, again and again. Sources that hang do
// not delay the others: they are passed over within seconds, however many they
// are, and asked last from then on.
type rounds struct {
	ask  func(context.Context, source) (grown bool, err error) // bounded
	list func() []source
	// first returns, once, the source that has just announced something; it may
	// be empty.
	first func() string
	// pause is called when all were asked, and tells when to begin again.
	pause func() time.Duration
	wake  <-chan struct{} // begin again now

	ended chan ending
	busy  map[string]*asking

	mu        sync.Mutex // guards what follows; run alone changes it
	standings map[string]*standing
}

func newRounds(ask func(context.Context, source) (bool, error), list func() []source, first func() string, pause func() time.Duration, wake <-chan struct{}) *rounds {
	return &rounds{ask: ask, list: list, first: first, pause: pause, wake: wake,
		ended: make(chan ending), busy: map[string]*asking{}, standings: map[string]*standing{}}
}

// run asks until ctx ends, and returns when no request is under way.
func (r *rounds) run(ctx context.Context) {
	queue, width := r.order(), 1
	next := time.NewTimer(0)
	next.Stop()
	resting := false
	for ctx.Err() == nil {
		queue = r.start(ctx, queue, width)
		if len(queue) == 0 && r.pressing() == 0 && !resting {
			next.Reset(r.pause())
			resting = true
		}
		var hurry <-chan time.Time
		if r.pressing() > 0 || len(queue) > 0 {
			hurry = time.After(nextAfter)
		}
		select {
		case <-ctx.Done():
		case e := <-r.ended:
			if r.end(e) {
				width = 1
			}
		case <-hurry:
			width = min(2*width, maxSyncs)
			r.pass(len(queue) > 0)
		case <-r.wake:
			queue, width, resting = r.order(), 1, false
		case <-next.C:
			queue, width, resting = r.order(), 1, false
		}
	}
	for len(r.busy) > 0 { // bounded: their context has ended
		r.end(<-r.ended)
	}
}

// order sorts the sources, the best first: good ones, unknown ones, those that
// were good until lately, slow ones. Among equals the one that has just
// announced something comes first, and the others in random order.
func (r *rounds) order() []source {
	out := r.list()
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	first := r.first()
	r.mu.Lock()
	defer r.mu.Unlock()
	there := map[string]bool{}
	rank := func(s source) int {
		rank := 2 * r.rank(s.name)
		if s.name != first {
			rank++
		}
		return rank
	}
	for _, s := range out {
		there[s.name] = true
	}
	for name := range r.standings {
		if _, asked := r.busy[name]; !there[name] && !asked {
			delete(r.standings, name) // it is gone
		}
	}
	slices.SortStableFunc(out, func(a, b source) int {
		return cmp.Or(rank(a)-rank(b), r.failsOf(a.name)-r.failsOf(b.name))
	})
	return out
}

const rankSlow = 3

// rank orders the sources; the caller holds mu.
func (r *rounds) rank(name string) int {
	s, ok := r.standings[name]
	switch {
	case !ok:
		return 1
	case s.good && s.fails == 0:
		return 0
	case s.good && s.fails < maxFails:
		return 2
	case time.Since(s.slow) < slowFor:
		return rankSlow
	default:
		return 1
	}
}

func (r *rounds) failsOf(name string) int {
	if s, ok := r.standings[name]; ok {
		return s.fails
	}
	return 0
}

// start begins to ask up to width sources, beside those that are passed over,
// and returns the rest of the queue.
func (r *rounds) start(ctx context.Context, queue []source, width int) []source {
	for len(queue) > 0 && r.pressing() < width && len(r.busy) < maxSyncs {
		s := queue[0]
		queue = queue[1:]
		if _, asked := r.busy[s.name]; asked {
			continue
		}
		r.mu.Lock()
		slow := r.rank(s.name) == rankSlow
		r.mu.Unlock()
		if slow && r.slowOnes() >= maxSlow {
			continue // another time
		}
		ask, cancel := context.WithCancel(ctx)
		r.busy[s.name] = &asking{started: time.Now(), cancel: cancel, slow: slow}
		go func() {
			grown, err := r.ask(ask, s)
			r.ended <- ending{s, grown, err}
		}()
	}
	return queue
}

// pressing are those that are being asked and not passed over.
func (r *rounds) pressing() (n int) {
	for _, a := range r.busy {
		if !a.passed {
			n++
		}
	}
	return n
}

func (r *rounds) slowOnes() (n int) {
	for _, a := range r.busy {
		if a.slow {
			n++
		}
	}
	return n
}

// pass asks further sources beside those that are being asked. If there are no
// slots left, a random half of the requests is given up: which ones hang is not
// known, and what they have fetched is kept.
func (r *rounds) pass(waiting bool) {
	asked := make([]*asking, 0, len(r.busy))
	for _, a := range r.busy {
		a.passed = true
		asked = append(asked, a)
	}
	if !waiting || len(asked) < maxSyncs {
		return
	}
	rand.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] })
	for _, a := range asked[:maxSyncs/2] {
		a.crowded = true
		a.cancel()
	}
}

// end notes how a source did. It tells whether that was good.
func (r *rounds) end(e ending) bool {
	a := r.busy[e.source.name]
	delete(r.busy, e.source.name)
	a.cancel()
	r.note(e, time.Since(a.started) >= slowAfter && !a.crowded)
	if e.grown {
		// A source that is passed over would bring the same: it hangs, or is
		// late.
		for _, other := range r.busy {
			if other.passed {
				other.cancel()
			}
		}
	}
	return e.err == nil
}

func (r *rounds) note(e ending, slow bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.standings[e.source.name]
	if !ok {
		s = new(standing)
		r.standings[e.source.name] = s
	}
	if e.err == nil {
		*s = standing{good: true}
		return
	}
	if s.fails++; s.fails == 1 {
		s.since = time.Now()
	}
	s.err = e.err
	if slow {
		s.slow = time.Now()
	}
}

// failing are the sources that failed the last time, by name.
func (r *rounds) failing() map[string]standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]standing{}
	for name, s := range r.standings {
		if s.err != nil {
			out[name] = *s
		}
	}
	return out
}
