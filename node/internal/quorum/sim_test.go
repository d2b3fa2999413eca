package quorum

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSchedules runs the protocol through schedules of all that can go wrong, and
// checks its claims (docs/consensus.md) after each step. PYRSIA_SCHEDULES says how
// many, PYRSIA_SEED runs one of them and prints it.
func TestSchedules(t *testing.T) {
	if seed, err := strconv.ParseUint(os.Getenv("PYRSIA_SEED"), 10, 64); err == nil {
		w := trace(seed, mutation{})
		t.Logf("schedule %d: %+v\n%s", seed, w.plan, strings.Join(w.trace, "\n"))
		if w.broken != "" {
			t.Fatal(w.broken)
		}
		return
	}
	n := 2000
	if more, err := strconv.Atoi(os.Getenv("PYRSIA_SCHEDULES")); err == nil {
		n = more
	}
	begin := time.Now()
	seed, broken := search(uint64(n), mutation{}, func(done uint64) {
		if done%10000 == 0 {
			t.Logf("%d schedules, %.0f a second", done, float64(done)/time.Since(begin).Seconds())
		}
	})
	if broken {
		fail(t, seed, mutation{})
	}
}

// search runs schedules until one is broken, on all processors. It returns the first.
func search(n uint64, m mutation, done func(uint64)) (first uint64, broken bool) {
	var next, count atomic.Uint64
	var lowest atomic.Uint64
	lowest.Store(n)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= lowest.Load() {
					return
				}
				w := newWorld(seed, m)
				if w.run(); w.broken != "" {
					for old := lowest.Load(); seed < old && !lowest.CompareAndSwap(old, seed); old = lowest.Load() {
					}
				}
				done(count.Add(1))
			}
		})
	}
	wait.Wait()
	return lowest.Load(), lowest.Load() < n
}

func trace(seed uint64, m mutation) *world {
	w := newWorld(seed, m)
	w.tracing = true
	w.run()
	return w
}

func fail(t *testing.T, seed uint64, m mutation) {
	t.Helper()
	w := trace(seed, m)
	from := max(0, len(w.trace)-150)
	t.Fatalf("schedule %d breaks a claim: %s\n%+v\n%s\nTo see all of it: PYRSIA_SEED=%d go test -v -run '^TestSchedules$' ./node/internal/quorum",
		seed, w.broken, w.plan, strings.Join(w.trace[from:], "\n"), seed)
}

// mutations are the mistakes that are easily made. A simulation that does not notice
// one of them proves nothing about it.
var mutations = map[string]mutation{
	"sign before W": {proposer: func(p *Proposer) {
		p.staged = func(c Config, in func(string) bool) bool {
			return c.Staged(in) || anyone(c, in)
		}
	}},
	"restore below R": {proposer: func(p *Proposer) {
		p.answered = func(c Config, in func(string) bool) bool { return c.Version != 0 && anyone(c, in) }
	}},
	"no second staging": {proposer: func(p *Proposer) {
		p.staged = func(c Config, in func(string) bool) bool { return p.phase == Restoring || c.Staged(in) }
	}},
	"ungated refresh": {proposer: func(p *Proposer) {
		p.reassuring = func(Config, func(string) bool) bool { return true }
	}},
	"no joint quorum": {proposer: func(p *Proposer) {
		p.staged = func(c Config, in func(string) bool) bool { return latest(c).Staged(in) }
		p.answered = func(c Config, in func(string) bool) bool { return latest(c).Restored(in) }
	}},
	"the key survives its disk": {sameKey: true},
	"two lines count twice":     {countLines: true},
	"released at a time-out":    {release: true},
	"the time of the signature": {lateTime: true},
}

func anyone(c Config, in func(string) bool) bool {
	for _, m := range c.Members() {
		if in(m.Name) {
			return true
		}
	}
	return false
}

func latest(c Config) Config {
	if c.Next != nil {
		c.List, c.Next = *c.Next, nil
	}
	return c
}

// TestMutations breaks one rule at a time. Each must be noticed within 20,000
// schedules.
func TestMutations(t *testing.T) {
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) {
			seed, broken := search(20000, m, func(uint64) {})
			if !broken {
				t.Fatal("20,000 schedules do not notice it")
			}
			w := newWorld(seed, m)
			w.run()
			t.Logf("schedule %d: %s", seed, w.broken)
			if os.Getenv("PYRSIA_TRACE") != "" {
				fmt.Println(strings.Join(trace(seed, m).trace, "\n"))
			}
		})
	}
}

// TestSchedulesReachWhatTheyAreFor sees to it that schedules do not pass because
// nothing happens in them.
func TestSchedulesReachWhatTheyAreFor(t *testing.T) {
	var reached [milestones]int
	for seed := range uint64(300) {
		w := newWorld(seed, mutation{})
		w.run()
		for m, n := range w.reached {
			reached[m] += min(n, 1)
		}
	}
	for m, n := range reached {
		if n == 0 {
			t.Errorf("no schedule of 300 reaches milestone %d", m)
		}
	}
	t.Logf("schedules of 300 that reach each milestone: %v", reached)
}
