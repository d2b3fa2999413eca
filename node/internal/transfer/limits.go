package transfer

import (
	"context"
	"io"
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// chunk is what is read or written at once, in bytes; a limit lets at least
// that much through at a time.
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
	up, down  *rate.Limiter
	peers     *lru.Cache[string, *rate.Limiter] // by direction and peer
}

// NewLimits makes the limits.
func NewLimits(b Bandwidth) *Limits {
	peers, err := lru.New[string, *rate.Limiter](1024)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Limits{bandwidth: b, up: limiter(b.Upload), down: limiter(b.Download), peers: peers}
}

func limiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), chunk)
}

// of are the limits on one direction with one peer; none if nothing is bounded.
func (l *Limits) of(whole *rate.Limiter, direction, peer string) (out []*rate.Limiter) {
	if whole != nil {
		out = append(out, whole)
	}
	if l.bandwidth.Peer <= 0 {
		return out
	}
	own := limiter(l.bandwidth.Peer)
	if old, ok, _ := l.peers.PeekOrAdd(direction+peer, own); ok {
		own = old
	}
	return append(out, own)
}

func wait(ctx context.Context, limits []*rate.Limiter, n int) error {
	for _, l := range limits {
		if err := l.WaitN(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// reader bounds what is read from a peer.
func (l *Limits) reader(ctx context.Context, r io.Reader, peer string) io.Reader {
	limits := l.of(l.down, "down ", peer)
	if limits == nil {
		return r
	}
	return &limitedReader{ctx, r, limits}
}

type limitedReader struct {
	ctx    context.Context
	r      io.Reader
	limits []*rate.Limiter
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(len(p), chunk)])
	if werr := wait(l.ctx, l.limits, n); werr != nil {
		return n, werr
	}
	return n, err
}

// writer bounds what is sent to a peer. Without a bound it is w itself, which
// knows the kernel's way from a file to a socket.
func (l *Limits) writer(r *http.Request, w http.ResponseWriter, peer string) http.ResponseWriter {
	limits := l.of(l.up, "up ", peer)
	if limits == nil {
		return w
	}
	return &limitedWriter{w, r.Context(), limits}
}

type limitedWriter struct {
	http.ResponseWriter
	ctx    context.Context
	limits []*rate.Limiter
}

func (l *limitedWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), chunk)]
		if err = wait(l.ctx, l.limits, len(part)); err == nil {
			var m int
			m, err = l.ResponseWriter.Write(part)
			n += m
			p = p[m:]
		}
	}
	return n, err
}
