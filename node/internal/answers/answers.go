// Package answers bounds the memory that clients can make a node hold in answers. It
// may import server, which tells clients apart; the handlers of what is open to
// everyone call it.
package answers

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"sync"

	"github.com/pyrsia/pyrsia-operator/node/server"
)

const (
	// maxBuilding is how many answers are made in parallel, and maxBuildingFor
	// how many of them for one client.
	maxBuilding    = 8
	maxBuildingFor = maxBuilding / 4
	// maxHeld bounds the bytes of all answers that clients are slow to take, and
	// maxHeldBy those of one client. What is small costs less than a connection.
	maxHeld   = 32 << 20
	maxHeldBy = maxHeld / 4
	smallBody = 4 << 10
	// heldRetry is when a client that was refused may come back, in seconds.
	heldRetry = 5
)

// Limit bounds what clients can make a node hold in memory: a client that asks
// for a lot and reads nothing costs a share of a fixed sum. Beyond it clients get
// a 503; a follower asks the next node.
type Limit struct {
	building chan struct{}

	mu     sync.Mutex // guards what follows
	queues map[string]*queue
	held   int64
	by     map[string]int64 // client -> bytes
}

// queue is where the questions of one client wait.
type queue struct {
	places chan struct{}
	users  int
}

// New returns a limit that nothing counts against yet.
func New() *Limit {
	return &Limit{building: make(chan struct{}, maxBuilding), queues: map[string]*queue{}, by: map[string]int64{}}
}

// Handler has h make its answers in memory, and sends them when they are made: h
// never waits for a slow client.
func (a *Limit) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := server.Client(r)
		made := &answer{header: w.Header(), code: http.StatusOK}
		if a.build(r.Context(), client, func() { h.ServeHTTP(made, r) }) != nil {
			return // the client is gone
		}
		body, size := made.whole, int64(cap(made.whole))
		if body == nil {
			body, size = made.body.Bytes(), int64(made.body.Cap())
		}
		if size > smallBody {
			if !a.take(client, size) {
				clear(w.Header())
				w.Header().Set("Retry-After", strconv.Itoa(heldRetry))
				http.Error(w, "this node holds enough answers that clients are slow to take: ask again later, or another node", http.StatusServiceUnavailable)
				return
			}
			defer a.give(client, size)
		}
		if len(body) > 0 {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(made.code)
		_, _ = w.Write(body) // the client is gone
	})
}

// build makes an answer when it is its turn. A client with many parallel
// requests waits for its own.
func (a *Limit) build(ctx context.Context, client string, serve func()) error {
	own, leave := a.queue(client)
	defer leave()
	for _, places := range []chan struct{}{own, a.building} {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	serve()
	return nil
}

// queue is the client's, until it leaves.
func (a *Limit) queue(client string) (places chan struct{}, leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.queues[client]
	if !ok {
		q = &queue{places: make(chan struct{}, maxBuildingFor)}
		a.queues[client] = q
	}
	q.users++
	return q.places, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(a.queues, client)
		}
	}
}

// answer is an http.ResponseWriter in memory.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
	whole  []byte // instead of body
}

// WriteWhole answers with data, which is kept until it is sent: a copy of a
// bundle takes longer than all else.
func WriteWhole(w http.ResponseWriter, data []byte) {
	if made, ok := w.(*answer); ok {
		made.whole = data
		return
	}
	_, _ = w.Write(data) // the client is gone
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// take takes room for an answer, if there is enough. One that is larger than
// all of a client's share goes alone.
func (a *Limit) take(client string, n int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held > 0 && a.held+n > maxHeld || a.by[client] > 0 && a.by[client]+n > maxHeldBy {
		return false
	}
	a.held += n
	a.by[client] += n
	return true
}

func (a *Limit) give(client string, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held -= n
	if a.by[client] -= n; a.by[client] == 0 {
		delete(a.by, client)
	}
}
