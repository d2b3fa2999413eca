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
	// hedgeAfter is how long the first peer has for a whole blob before
	// another is asked as well; each further one gets the same.
	hedgeAfter = 150 * time.Millisecond
	// maxRacers is how many peers are asked for one blob at a time. Those from
	// which it hardly comes do not count; with them there are at most maxAsked.
	maxRacers = 4
	maxAsked  = 32
	// firstBytes is how long a peer has until it counts as one of these, and inTime
	// is when it would be there from one that does not.
	firstBytes = 4 * hedgeAfter
	inTime     = 5 * time.Second
	// small is what manifests, configs and piece lists (of unknown size) hardly
	// exceed, in bytes.
	small = 64 << 10
)

// whole brings a blob of at most limit bytes, and of unknown size if size < 0.
// Everyone who asks at the same time shares one transfer.
func (f *Fetcher) whole(ctx context.Context, want digest.Digest, size, limit int64, key digest.Digest) ([]byte, error) {
	ended := f.small.DoChan(want.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(f.ctx, FirstPiece)
		defer cancel()
		r := &race{f: f, want: want, size: size, limit: limit, key: key, asked: map[*p2p.Peer]bool{}, running: map[*racer]bool{}, results: make(chan result, maxAsked+1), found: make(chan *p2p.Peer, maxRacers)}
		data, err := r.run(ctx)
		if err != nil {
			return nil, err
		}
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

// race asks one peer after the other for a blob, and a further one whenever
// the last takes long. The first that delivers ends it.
type race struct {
	f           *Fetcher
	want        digest.Digest
	size, limit int64
	key         digest.Digest
	asked       map[*p2p.Peer]bool
	running     map[*racer]bool
	results     chan result
	found       chan *p2p.Peer // by a lookup; closed at its end
	last        error
}

// racer is one peer that is asked.
type racer struct {
	peer    *p2p.Peer
	started time.Time
	got     atomic.Int64 // bytes
	cancel  context.CancelCauseFunc
}

type result struct {
	*racer
	data []byte
	err  error
}

// hardly tells whether the blob hardly comes from a racer.
func (r *race) hardly(a *racer, now time.Time) bool {
	age, size := now.Sub(a.started), float64(max(r.size, small))
	return age > firstBytes && float64(a.got.Load())*inTime.Seconds() < size*age.Seconds()
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
	if len(r.running) >= maxAsked {
		slices.SortFunc(others, func(a, b *racer) int { return cmp.Compare(a.got.Load(), b.got.Load()) })
		for _, a := range others[:min(len(others), maxAsked/2)] {
			a.cancel(errSlow)
		}
	}
	return n
}

func (r *race) run(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errLost)
	r.f.awaitPeers(ctx)
	waiting := r.f.holders.order(r.key, r.f.network.Peers(), r.size <= small)
	var found chan *p2p.Peer // nil until somebody is looked for
	lookedUp := false
	hedge := time.NewTimer(hedgeAfter)
	defer hedge.Stop()
	next := func(n int) {
		racing := r.racing(time.Now())
		// Twice as many each time it hardly comes from those who were asked.
		n = min(n, maxRacers+len(r.running)-2*racing)
		for n > 0 && len(waiting) > 0 && len(r.running) < maxAsked {
			p := waiting[0]
			waiting = waiting[1:]
			if !r.asked[p] && !p.Banned() {
				r.ask(ctx, p)
				hedge.Reset(hedgeAfter)
				n--
			}
		}
	}
	next(1)
	for {
		if !lookedUp && len(waiting) == 0 {
			lookedUp, found = true, r.found
			go r.lookUp(ctx)
		}
		if len(r.running) == 0 && len(waiting) == 0 && found == nil {
			return nil, errors.Join(ErrUnavailable, r.last)
		}
		select {
		case got := <-r.results:
			delete(r.running, got.racer)
			if got.err == nil {
				r.f.holders.delivered(r.key, got.peer.ID)
				got.peer.Delivered(len(got.data))
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
			hedge.Reset(hedgeAfter)
			// One more, or as many as there are that hardly deliver.
			next(max(1, len(r.running)-r.racing(time.Now())))
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
	err := r.f.network.Find(ctx, r.key, func(p *p2p.Peer) {
		select {
		case r.found <- p:
		case <-ctx.Done():
		}
	})
	if err != nil && ctx.Err() == nil {
		r.f.log.Debug("looking for content", "digest", r.key, "error", err)
	}
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
	a := &racer{peer: p, started: time.Now(), cancel: cancel}
	r.asked[p], r.running[a] = true, true
	go func() {
		defer cancel(errLost)
		data, err := r.fetch(ctx, a)
		r.results <- result{a, data, err} // there is room for every racer
	}()
}

// fetch is one peer's part.
func (r *race) fetch(ctx context.Context, a *racer) ([]byte, error) {
	in := new(buffer) // which grows: many may be asked in vain
	err := r.f.get(ctx, wish{
		peer: a.peer, blob: r.want, length: r.size, limit: r.limit, out: in, got: &a.got,
		check: func(got digest.Digest) error {
			if got != r.want {
				return fmt.Errorf("%d bytes that have digest %s, want %s", len(in.data), got, r.want)
			}
			return nil
		},
	})
	return in.data, err
}
