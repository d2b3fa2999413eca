package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

const (
	// hedgeAfter is how long the first peer has for a whole blob before
	// another is asked as well; each further one gets the same.
	hedgeAfter = 150 * time.Millisecond
	maxRacers  = 4 // peers asked for one blob at a time
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
		r := &race{f: f, want: want, size: size, limit: limit, key: key, asked: map[*p2p.Peer]bool{}, results: make(chan result, maxRacers), found: make(chan *p2p.Peer, maxRacers)}
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
	running     int
	results     chan result
	found       chan *p2p.Peer // by a lookup; closed at its end
	last        error
}

type result struct {
	peer *p2p.Peer
	data []byte
	err  error
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
	next := func() {
		for len(waiting) > 0 && r.running < maxRacers {
			p := waiting[0]
			waiting = waiting[1:]
			if !r.asked[p] && !p.Banned() {
				r.ask(ctx, p)
				hedge.Reset(hedgeAfter)
				return
			}
		}
	}
	next()
	for {
		if !lookedUp && len(waiting) == 0 {
			lookedUp, found = true, r.found
			go r.lookUp(ctx)
		}
		if r.running == 0 && len(waiting) == 0 && found == nil {
			return nil, errors.Join(ErrUnavailable, r.last)
		}
		select {
		case got := <-r.results:
			r.running--
			if got.err == nil {
				r.f.holders.delivered(r.key, got.peer.ID)
				got.peer.Delivered(len(got.data))
				return got.data, nil
			}
			r.failed(ctx, got)
			next()
		case p, ok := <-found:
			if !ok {
				found = nil
				continue
			}
			waiting = append(waiting, p)
			if r.running == 0 {
				next()
			}
		case <-hedge.C:
			hedge.Reset(hedgeAfter)
			next()
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
	r.asked[p] = true
	r.running++
	go func() {
		data, err := r.fetch(ctx, p)
		r.results <- result{p, data, err} // there is room for every racer
	}()
}

// fetch is one peer's part.
func (r *race) fetch(ctx context.Context, p *p2p.Peer) ([]byte, error) {
	in := &buffer{make([]byte, 0, max(r.size, 0))}
	err := r.f.get(ctx, wish{
		peer: p, blob: r.want, length: r.size, limit: r.limit, out: in,
		check: func(got digest.Digest) error {
			if got != r.want {
				return fmt.Errorf("%d bytes that have digest %s, want %s", len(in.data), got, r.want)
			}
			return nil
		},
	})
	return in.data, err
}
