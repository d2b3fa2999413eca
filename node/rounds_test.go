package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pool are sources of which some hang.
type pool struct {
	sources []source

	mu    sync.Mutex // guards what follows
	hang  map[string]bool
	size  map[string]int // blocks that a source has
	ours  int
	asked map[string]int
	wake  chan struct{}
}

// hangs is how long a source can hang at most: a bit of an answer now and then.
const hangs = syncTimeout

func newPool(hanging, honest int) *pool {
	p := &pool{hang: map[string]bool{}, size: map[string]int{}, asked: map[string]int{}, wake: make(chan struct{}, 1)}
	for i := range hanging + honest {
		name := fmt.Sprint("peer ", i)
		p.sources = append(p.sources, source{name: name})
		p.hang[name] = i < hanging
	}
	return p
}

func (p *pool) ask(ctx context.Context, s source) (bool, error) {
	p.mu.Lock()
	p.asked[s.name]++
	hang := p.hang[s.name]
	p.mu.Unlock()
	if hang {
		select {
		case <-time.After(hangs):
		case <-ctx.Done():
		}
		return false, errors.New("no answer")
	}
	time.Sleep(20 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	grown := p.size[s.name] > p.ours
	p.ours = max(p.ours, p.size[s.name])
	return grown, nil
}

func (p *pool) rounds() *rounds {
	return newRounds(p.ask, func() []source { return append([]source{}, p.sources...) },
		func() string { return "" }, func() time.Duration { return pollInterval }, p.wake)
}

func (p *pool) setHang(name string, hang bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hang[name] = hang
}

// publish gives the honest sources a block, and returns how long it took to arrive.
func (p *pool) publish(t *testing.T, announced bool) time.Duration {
	t.Helper()
	p.mu.Lock()
	for _, s := range p.sources {
		if !p.hang[s.name] {
			p.size[s.name]++
		}
	}
	want, began := p.ours+1, time.Now()
	p.mu.Unlock()
	if announced {
		p.wake <- struct{}{}
	}
	for {
		p.mu.Lock()
		there := p.ours >= want
		p.mu.Unlock()
		if there {
			break
		}
		time.Sleep(10 * time.Millisecond)
		if time.Since(began) > 5*time.Minute {
			t.Fatal("the block never came")
		}
	}
	return time.Since(began)
}

// bubble runs a test with rounds in a time of their own; all goroutines are
// ended at its end.
func bubble(t *testing.T, p *pool, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, ended := p.rounds(), make(chan struct{})
		p.wake = make(chan struct{}, 1)
		r.wake = p.wake
		go func() { r.run(ctx); close(ended) }()
		test(t)
		cancel()
		<-ended
	})
}

// 48 peers that hang delay a block by at most 5 s: a node that has just
// started, one that runs, and one whose good sources turn.
func TestHangingPeersDelayNoBlock(t *testing.T) {
	const limit = 5 * time.Second
	p := newPool(48, 1)
	bubble(t, p, func(t *testing.T) {
		if took := p.publish(t, false); took > limit {
			t.Errorf("the first block took %s", took)
		}
		for i := range 5 {
			if took := p.publish(t, true); took > limit/2 {
				t.Errorf("block %d took %s", i, took)
			}
			time.Sleep(time.Duration(i) * 7 * time.Second)
		}
	})
	p = newPool(48, 1)
	for name := range p.hang {
		p.hang[name] = false
	}
	bubble(t, p, func(t *testing.T) {
		p.publish(t, true)
		time.Sleep(time.Minute)
		for i := range 48 { // all at once, after they were good
			p.setHang(fmt.Sprint("peer ", i), true)
		}
		for i := range 5 {
			if took := p.publish(t, true); took > limit {
				t.Errorf("block %d after they turned took %s", i, took)
			}
		}
	})
}

// More hanging peers than are asked in parallel, each with an unknown name, do
// not delay a block any longer: those that are passed over free their slots.
func TestCrowdsOfHangingPeersDelayNoBlock(t *testing.T) {
	const limit = 10 * time.Second
	p := newPool(2*maxSyncs, 1)
	for name := range p.hang {
		p.hang[name] = false
	}
	bubble(t, p, func(t *testing.T) {
		p.publish(t, true)
		time.Sleep(time.Minute)
		for i := range 2 * maxSyncs { // all at once, after they were good
			p.setHang(fmt.Sprint("peer ", i), true)
		}
		time.Sleep(2 * time.Second)
		for i := range 3 {
			if took := p.publish(t, true); took > limit {
				t.Errorf("block %d took %s", i, took)
			}
		}
	})
}

// An honest source that was slow once is asked before those that always are.
func TestOneHiccupIsForgiven(t *testing.T) {
	p := newPool(48, 1)
	honest := "peer 48"
	bubble(t, p, func(t *testing.T) {
		p.publish(t, true)
		time.Sleep(2 * time.Minute) // the others have hung again and again
		p.setHang(honest, true)
		time.Sleep(30 * time.Second)
		p.setHang(honest, false)
		time.Sleep(pollInterval + hangs) // what hung has ended
		if took := p.publish(t, true); took > 5*time.Second {
			t.Errorf("a block took %s after the publisher's hiccup", took)
		}
	})
}

// In peace each source is asked once in a round, one after the other.
func TestInPeaceOneSourceIsAskedAtATime(t *testing.T) {
	p := newPool(0, 20)
	bubble(t, p, func(t *testing.T) {
		time.Sleep(pollInterval - time.Second)
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.sources {
			if p.asked[s.name] != 1 {
				t.Errorf("%s was asked %d times", s.name, p.asked[s.name])
			}
		}
	})
}
