package transfer

import (
	"io"
	"sync/atomic"
	"time"
)

// arrival is content on its way from one peer. Time during which this node's
// own limits delay it is not the peer's fault, and does not count.
type arrival struct {
	started time.Time
	got     atomic.Int64 // bytes
	heard   atomic.Int64 // when bytes came last, Unix time in ns; 0: never
	held    atomic.Int64 // for how long it was held back, in ns
	since   atomic.Int64 // since when it is held back, Unix time in ns; 0: it is not
}

func (a *arrival) pause(now time.Time) { a.since.Store(now.UnixNano()) }

func (a *arrival) resume(now time.Time) {
	a.held.Add(now.UnixNano() - a.since.Swap(0))
	a.heard.Store(now.UnixNano())
}

// age is for how long the peer has had a chance to send.
func (a *arrival) age(now time.Time) time.Duration {
	held := a.held.Load()
	if since := a.since.Load(); since != 0 {
		held += now.UnixNano() - since
	}
	return now.Sub(a.started) - time.Duration(held)
}

// behind tells whether size bytes take longer than a given time at the current
// rate.
func (a *arrival) behind(size int64, within time.Duration, now time.Time) bool {
	return float64(a.got.Load())*within.Seconds() < float64(size)*a.age(now).Seconds()
}

// arriving tells whether something has arrived, and recently.
func (a *arrival) arriving(now time.Time) bool {
	return a.got.Load() > 0 && (a.since.Load() != 0 || now.UnixNano()-a.heard.Load() < int64(slowWindow))
}

// reader counts what arrives.
func (a *arrival) reader(r io.Reader) io.Reader { return &counting{r, a} }

type counting struct {
	io.Reader
	arrival *arrival
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if n > 0 {
		c.arrival.got.Add(int64(n))
		c.arrival.heard.Store(time.Now().UnixNano())
	}
	return n, err
}
