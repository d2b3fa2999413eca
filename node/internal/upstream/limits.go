package upstream

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// turnTimeout is how long a request waits for its turn; one that would wait
	// longer fails immediately, so that it does not hold up running work.
	turnTimeout = 10 * time.Second
	// defaultRetryAfter is for a 429 that does not say when to come again.
	defaultRetryAfter = time.Minute
	maxRetryAfter     = 6 * time.Hour
)

// Limits are what an upstream lets this node pull, as it said last.
type Limits struct {
	Limit     int           // pulls in a window; 0: it did not send a limit
	Remaining int           // of them
	Window    time.Duration // length of the window
	// Until is when the upstream wants to be asked again; in the past if it
	// does not mind.
	Until time.Time
}

// pace is how long to wait after a pull before the next one: nothing while
// more than half of the window's pulls are left, and then as long as the
// window takes to give one back. So a burst is fast, long work never runs dry,
// and some pulls are always left for what is urgent.
func (l Limits) pace() time.Duration {
	if l.Limit <= 0 || l.Window <= 0 || l.Remaining > l.Limit/2 {
		return 0
	}
	return l.Window / time.Duration(l.Limit)
}

// governor keeps the requests to one upstream within its limits.
type governor struct {
	now func() time.Time

	mu   sync.Mutex // guards what follows
	said Limits
	next time.Time // when the next pull may begin
}

// take reserves a turn, and returns how long to wait for it. pull tells
// whether the upstream counts the request. Nothing is reserved if that takes
// longer than turnTimeout.
func (g *governor) take(pull bool) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	at := now
	if g.said.Until.After(at) {
		at = g.said.Until
	}
	if pull && g.next.After(at) {
		at = g.next
	}
	wait := at.Sub(now)
	if wait > turnTimeout {
		return wait
	}
	if pull {
		if g.said.Remaining > 0 {
			g.said.Remaining--
		}
		g.next = at.Add(g.said.pace())
	}
	return wait
}

// note learns from an answer's headers.
func (g *governor) note(resp *http.Response) {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit, window, ok := parseLimit(resp.Header.Get("Ratelimit-Limit"))
	remaining, _, ok2 := parseLimit(resp.Header.Get("Ratelimit-Remaining"))
	if ok && ok2 {
		g.said.Limit, g.said.Remaining = limit, min(remaining, limit)
		if window > 0 {
			g.said.Window = window
		}
		if g.said.pace() == 0 {
			g.next = time.Time{}
		}
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		until := g.now().Add(retryAfter(resp.Header.Get("Retry-After"), g.now()))
		if until.After(g.said.Until) {
			g.said.Until = until
		}
	}
}

// limits is what is known now.
func (g *governor) limits() Limits {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.said
}

// parseLimit reads "100;w=21600": 100 in a window of 21,600 seconds.
func parseLimit(s string) (n int, window time.Duration, ok bool) {
	number, rest, _ := strings.Cut(s, ";")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil || n < 0 || n > 1<<30 {
		return 0, 0, false
	}
	if w, is := strings.CutPrefix(strings.TrimSpace(rest), "w="); is {
		if seconds, err := strconv.Atoi(w); err == nil && seconds > 0 && seconds < 1<<25 {
			window = time.Duration(seconds) * time.Second
		}
	}
	return n, window, true
}

// retryAfter reads the header: seconds or a date (RFC 9110, section 10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	wait := defaultRetryAfter
	if seconds, err := strconv.Atoi(s); err == nil && seconds >= 0 {
		wait = time.Duration(min(seconds, int(maxRetryAfter.Seconds()))) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, time.Second), maxRetryAfter)
}

func limitedError(host string, wait time.Duration) error {
	return &Error{Kind: RateLimited, RetryAfter: wait,
		Err: fmt.Errorf("%s limits the rate of pulls: the next one is in %s", host, wait.Round(time.Second))}
}
