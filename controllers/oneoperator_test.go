package controllers_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Of two operators one acts. When it is cut off from the API server it ends by
// itself, before the other one begins, and writes nothing when it is let back.
func TestOneOperatorActs(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	ns := c.namespace(t)
	first, second := newWatched(), newWatched()
	a, err := c.runOperator(operatorOptions{lease: "one-acts", namespace: ns, wrap: first.wrap})
	must(t, err)
	defer a.stop()
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	c.create(t, publisher)
	c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	b, err := c.runOperator(operatorOptions{lease: "one-acts", namespace: ns, wrap: second.wrap})
	must(t, err)
	defer b.stop()
	another := func(name string) {
		n := publisherNode(ns, "http://127.0.0.1:1")
		n.Name = name
		c.create(t, n)
		c.awaitTemplate(t, n)
	}
	another("while-both-run")
	if n := len(second.writes()); n > 0 {
		t.Errorf("%d writes of an operator that waits", n)
	}
	first.cut.Store(true)
	another("while-the-first-is-cut-off")
	select {
	case <-a.ended:
	case <-time.After(patience):
		t.Fatal("the operator without a lease goes on")
	}
	if a.err == nil {
		t.Error("it ended without an error: nobody would start it again")
	}
	first.cut.Store(false)
	another("afterwards")
	last, begin := first.writes(), second.writes()
	if len(last) == 0 || len(begin) == 0 || !last[len(last)-1].Before(begin[0]) {
		t.Errorf("the first operator wrote last at %v, the second began at %v", last[len(last)-1], begin[0])
	}
}

// watched notes when an operator writes, and may be cut off.
type watched struct {
	cut atomic.Bool

	mu    sync.Mutex // guards times
	times []time.Time
}

func newWatched() *watched { return &watched{} }

func (w *watched) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if w.cut.Load() {
			return nil, errors.New("cut off")
		}
		if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/namespaces/test-") {
			w.mu.Lock()
			w.times = append(w.times, time.Now())
			w.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

func (w *watched) writes() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time{}, w.times...)
}
