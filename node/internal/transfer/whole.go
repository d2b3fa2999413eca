package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

const (
	// maxRacers is how many peers are asked for one blob at a time. Those from
	// which it hardly comes do not count.
	maxRacers = 4
	// wholeTimeout bounds a race in which something is arriving all the time.
	wholeTimeout = 2 * time.Minute
	// small is what manifests, configs and piece lists (of unknown size) hardly
	// exceed, in bytes.
	small = 64 << 10
)

// whole brings a blob of at most limit bytes, and of unknown size if size < 0.
// Concurrent calls share one transfer.
func (f *Fetcher) whole(ctx context.Context, want digest.Digest, size, limit int64, key digest.Digest) ([]byte, error) {
	ended := f.small.DoChan(want.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(f.ctx, wholeTimeout)
		defer cancel()
		r := newRace(f, request{blob: want, length: size, limit: limit, check: func(got digest.Digest) error {
			if got != want {
				return fmt.Errorf("digest %s, want %s", got, want)
			}
			return nil
		}}, key, wholePace)
		in, err := r.run(ctx)
		if err != nil {
			return nil, err
		}
		data := in.data
		f.metrics.bytes.WithLabelValues("peers").Add(float64(len(data)))
		if err := f.store.Cache(want, data); err != nil {
			f.log.Error("storing a blob", "error", err) // it is verified and can be handed on all the same
		}
		f.stored(key)
		return data, nil
	})
	select {
	case r := <-ended:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.([]byte), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// racePace is when a race asks others too.
type racePace struct {
	// after is how long the first peer has until its first bytes before another is
	// asked as well; each further one gets the same.
	after time.Duration
	// maxAsked bounds those that are asked at a time, with those that hardly deliver.
	maxAsked int
	// first is how long a peer has until it counts as one of these, and inTime is
	// when it would all be there from one that does not.
	first, inTime time.Duration
}

var (
	wholePace = racePace{after: 150 * time.Millisecond, maxAsked: 32, first: 600 * time.Millisecond, inTime: 5 * time.Second}
	// A piece is large, and what is asked for twice costs a slow link twice as much.
	piecePace = racePace{after: 500 * time.Millisecond, maxAsked: 8, first: time.Second, inTime: time.Minute}
)

// race asks one peer after the other for a blob or a piece, and a further one
// whenever the last takes long. The first that delivers ends it.
type race struct {
	f       *Fetcher
	request request // of each racer
	key     digest.Digest
	pace    racePace
	asked   map[*p2p.Peer]bool
	running map[*racer]bool
	results chan result
	found   chan *p2p.Peer // by a lookup; closed at its end
	lookup  error          // how it ended
	last    error
	moving  atomic.Bool // something is arriving
}

func newRace(f *Fetcher, w request, key digest.Digest, pace racePace) *race {
	return &race{f: f, request: w, key: key, pace: pace, asked: map[*p2p.Peer]bool{}, running: map[*racer]bool{},
		results: make(chan result, pace.maxAsked+1), found: make(chan *p2p.Peer, maxRacers)}
}

// racer is one peer that is asked.
type racer struct {
	arrival
	peer   *p2p.Peer
	cancel context.CancelCauseFunc
}

type result struct {
	*racer
	data *buffer
	err  error
}

// hardly tells whether the blob hardly moves from a racer.
func (r *race) hardly(a *racer, now time.Time) bool {
	return a.age(now) > r.pace.first && a.behind(max(r.request.length, small), r.pace.inTime, now)
}

// racing counts the racers from which the blob may come in time. If there are too
// many others, those that have sent least are given up.
func (r *race) racing(now time.Time) (n int) {
	var others []*racer
	for a := range r.running {
		if r.hardly(a, now) {
			others = append(others, a)
		} else {
			n++
		}
	}
	if len(r.running) >= r.pace.maxAsked {
		slices.SortFunc(others, func(a, b *racer) int { return cmp.Compare(a.got.Load(), b.got.Load()) })
		for _, a := range others[:min(len(others), r.pace.maxAsked/2)] {
			a.cancel(errSlow)
		}
	}
	return n
}

func (r *race) run(ctx context.Context) (*buffer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errLost)
	r.f.awaitPeers(ctx)
	waiting := r.f.holders.order(r.key, r.f.network.Peers(), r.request.length <= small)
	var found chan *p2p.Peer // nil until holders are looked up
	lookedUp := false
	hedge := time.NewTimer(r.pace.after)
	defer hedge.Stop()
	next := func(n int) {
		racing := r.racing(time.Now())
		// Twice as many each time the peers that were asked hardly deliver.
		n = min(n, maxRacers+len(r.running)-2*racing)
		for n > 0 && len(waiting) > 0 && len(r.running) < r.pace.maxAsked {
			p := waiting[0]
			waiting = waiting[1:]
			if !r.asked[p] && !p.Banned() {
				r.ask(ctx, p)
				hedge.Reset(r.pace.after)
				n--
			}
		}
	}
	next(1)
	for {
		if !lookedUp && len(waiting) == 0 && len(r.f.network.Peers()) > 0 {
			lookedUp, found = true, r.found
			go r.lookUp(ctx)
		}
		if len(r.running) == 0 && len(waiting) == 0 && found == nil {
			return nil, r.f.unavailable(r.request.blob, r.key, r.last, r.lookup)
		}
		select {
		case got := <-r.results:
			delete(r.running, got.racer)
			if got.err == nil {
				r.f.holders.delivered(r.key, got.peer.ID)
				got.peer.Delivered(len(got.data.data))
				return got.data, nil
			}
			r.failed(ctx, got)
			next(1)
		case p, ok := <-found:
			if !ok {
				found = nil
				continue
			}
			waiting = append(waiting, p)
			if len(r.running) == 0 {
				next(1)
			}
		case <-hedge.C:
			hedge.Reset(r.pace.after)
			// One more, or as many as there are that hardly deliver.
			n := len(r.running) - r.racing(time.Now())
			arriving := r.arriving(time.Now())
			if !arriving {
				n = max(1, n)
			}
			r.moving.Store(arriving)
			next(n)
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w in time", ErrUnavailable), r.last)
		}
	}
}

// lookUp runs in its own goroutine.
func (r *race) lookUp(ctx context.Context) {
	defer close(r.found)
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	r.lookup = r.f.network.Find(ctx, r.key, func(p *p2p.Peer) {
		select {
		case r.found <- p:
		case <-ctx.Done():
		}
	})
}

// look is await's.
func (r *race) look(waited time.Duration) error {
	if waited > headerAfter && r.moving.Load() {
		return errArriving
	}
	return nil
}

// arriving tells whether something is arriving from a racer.
func (r *race) arriving(now time.Time) bool {
	for a := range r.running {
		if a.arriving(now) {
			return true
		}
	}
	return false
}

func (r *race) failed(ctx context.Context, got result) {
	r.f.blame(got.peer, got.err)
	if errors.Is(got.err, errLacks) {
		r.f.holders.lacks(r.key, got.peer.ID)
	}
	if insecure(got.err) {
		r.ask(ctx, got.peer)
	}
	r.last = got.err
}

func (r *race) ask(ctx context.Context, p *p2p.Peer) {
	ctx, cancel := context.WithCancelCause(ctx)
	a := &racer{arrival: arrival{started: time.Now()}, peer: p, cancel: cancel}
	r.asked[p], r.running[a] = true, true
	go func() {
		defer cancel(errLost)
		req := r.request
		// A growing buffer: many of the peers may have nothing.
		req.peer, req.out, req.in = p, new(buffer), &a.arrival
		err := r.f.get(ctx, req)
		r.results <- result{a, req.out, err} // its buffer holds a result of every racer
	}()
}
