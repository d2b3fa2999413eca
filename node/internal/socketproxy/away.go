package socketproxy

import (
	"sync"
	"time"
)

const (
	// moment is how long a request waits for a mirror that has been away for
	// longer than Wait. Clients pull several images one after the other,
	// including those of registries that are not behind this port.
	moment = time.Second
	// forgotten is after how long without a request it is not known any more
	// that the mirror does not run.
	forgotten = 10 * time.Minute
)

// away is for how long the mirror has not run.
type away struct {
	mu    sync.Mutex // guards what follows
	since time.Time
	seen  time.Time // when it was found not to run last; zero: it runs
}

// deadline is until when a request waits that finds no mirror now.
func (a *away) deadline(now time.Time, wait time.Duration) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.seen) > forgotten {
		a.since = now
	}
	a.seen = now
	end, least := a.since.Add(wait), now.Add(min(moment, wait))
	if end.Before(least) {
		return least
	}
	return end
}

// over is called when the mirror has answered.
func (a *away) over() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = time.Time{}
}
