package upstream

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// limitChunk is how much a limit lets through in one piece, in bytes.
const limitChunk = 64 << 10

// Limit bounds the bandwidth of the upstreams that share it. A nil one bounds
// nothing.
type Limit struct{ limiter *rate.Limiter }

// NewLimit makes a limit in bytes per second; 0 is none.
func NewLimit(bytesPerSecond int64) *Limit {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Limit{rate.NewLimiter(rate.Limit(bytesPerSecond), limitChunk)}
}

// chunk is how much of p may be read in one call.
func (l *Limit) chunk(p []byte) []byte {
	if l == nil {
		return p
	}
	return p[:min(len(p), limitChunk)]
}

// wait waits until n bytes that were read are within the limit, and tells
// whether that took any time.
func (l *Limit) wait(ctx context.Context, n int) (waited bool, err error) {
	if l == nil || n == 0 {
		return false, nil
	}
	d := l.limiter.ReserveN(time.Now(), n).Delay()
	return d > 0, sleep(ctx, d)
}
