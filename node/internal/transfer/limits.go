package transfer

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// chunk is how much is read or written in one call, in bytes; a limit lets at
// least that much through at a time.
const chunk = 128 << 10

// Bandwidth is what the operator of a node lets it use, in bytes per second;
// 0 is no bound.
type Bandwidth struct {
	Upload, Download int64 // of the whole node
	Peer             int64 // each way, with each peer
}

// Limits holds a node to its bandwidth.
type Limits struct {
	bandwidth Bandwidth
	up, down  *turns
	peers     *lru.Cache[string, *turns] // by direction and peer
}

// NewLimits makes the limits.
func NewLimits(b Bandwidth) *Limits {
	peers, err := lru.New[string, *turns](1024)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Limits{bandwidth: b, up: newTurns(b.Upload), down: newTurns(b.Download), peers: peers}
}

// lanes is how many pieces of 4 MiB may be on their way at a time: as many as
// arrive within a minute, after which peers cut off a receiver that takes
// nothing.
func (l *Limits) lanes() int {
	if l.bandwidth.Download <= 0 {
		return maxFetching
	}
	return int(max(1, min(maxFetching, l.bandwidth.Download*40/pieces.Size)))
}

// of are the limits on one direction with one peer; none if nothing is bounded.
func (l *Limits) of(whole *turns, direction, peer string) (out []*turns) {
	if whole != nil {
		out = append(out, whole)
	}
	if l.bandwidth.Peer <= 0 {
		return out
	}
	own := newTurns(l.bandwidth.Peer)
	if old, ok, _ := l.peers.PeekOrAdd(direction+peer, own); ok {
		own = old
	}
	return append(out, own)
}

// turns lets content pass a limit in order: small content first, and of downloads
// the one that began first, so that pieces arrive one after the other and not all
// of them late. Uploads share, because a receiver that gets nothing takes its peer
// for dead.
type turns struct {
	limit *rate.Limiter

	mu      sync.Mutex // guards what follows
	busy    bool       // one has its turn
	waiting []*turn
}

type turn struct {
	began time.Time
	mine  chan struct{} // closed when it is
}

func newTurns(bytesPerSecond int64) *turns {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &turns{limit: rate.NewLimiter(rate.Limit(bytesPerSecond), chunk)}
}

// wait returns when n bytes, at most a chunk, may pass. The next one is chosen
// when their time is over: until then the one that had the turn may queue up
// again.
func (t *turns) wait(ctx context.Context, began time.Time, n int) error {
	if err := t.take(ctx, began); err != nil {
		return err
	}
	if took := t.limit.ReserveN(time.Now(), n).Delay(); took > 0 {
		time.AfterFunc(took, t.give)
	} else {
		t.give()
	}
	return nil
}

func (t *turns) take(ctx context.Context, began time.Time) error {
	t.mu.Lock()
	if !t.busy {
		t.busy = true
		t.mu.Unlock()
		return nil
	}
	own := &turn{began, make(chan struct{})}
	t.waiting = append(t.waiting, own)
	t.mu.Unlock()
	select {
	case <-own.mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, own)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 { // it was given the turn at this moment
		t.give()
	}
	return context.Cause(ctx)
}

func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.busy = false
		return
	}
	next := slices.MinFunc(t.waiting, func(a, b *turn) int { return a.began.Compare(b.began) })
	t.waiting = slices.DeleteFunc(t.waiting, func(o *turn) bool { return o == next })
	close(next.mine)
}

func wait(ctx context.Context, limits []*turns, began time.Time, n int) error {
	for _, l := range limits {
		if err := l.wait(ctx, began, n); err != nil {
			return err
		}
	}
	return nil
}

// rank is when a transfer counts as begun: before all others if it is small.
func rank(began time.Time, size int64) time.Time {
	if size <= maxWhole {
		const longAgo = 365 * 24 * time.Hour
		return began.Add(-longAgo)
	}
	return began
}

// shared is when all uploads of one kind count as begun.
var shared = time.Now()

// reader bounds what is read from a peer, of a size in bytes, and notes how long
// that held it back.
func (l *Limits) reader(ctx context.Context, r io.Reader, peer string, size int64, a *arrival) io.Reader {
	limits := l.of(l.down, "down ", peer)
	if limits == nil {
		return r
	}
	return &limitedReader{ctx, r, limits, rank(a.started, size), a}
}

type limitedReader struct {
	ctx     context.Context // of the one request: Read has no parameter for it
	r       io.Reader
	limits  []*turns
	began   time.Time
	arrival *arrival
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(len(p), chunk)])
	if n == 0 {
		return n, err
	}
	l.arrival.pause(time.Now())
	werr := wait(l.ctx, l.limits, l.began, n)
	l.arrival.resume(time.Now())
	if werr != nil {
		return n, werr
	}
	return n, err
}

// writer bounds what is sent to a peer. Without a bound it is w itself, which
// knows the kernel's way from a file to a socket.
func (l *Limits) writer(r *http.Request, w http.ResponseWriter, peer string, size int64) http.ResponseWriter {
	limits := l.of(l.up, "up ", peer)
	if limits == nil {
		return w
	}
	return &limitedWriter{w, r.Context(), limits, rank(shared, size)}
}

type limitedWriter struct {
	http.ResponseWriter
	ctx    context.Context // of the one request: Write has no parameter for it
	limits []*turns
	began  time.Time
}

func (l *limitedWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), chunk)]
		if err = wait(l.ctx, l.limits, l.began, len(part)); err == nil {
			var m int
			m, err = l.ResponseWriter.Write(part)
			n += m
			p = p[m:]
		}
	}
	return n, err
}
