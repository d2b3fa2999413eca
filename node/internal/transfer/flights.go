package transfer

import (
	"context"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

const (
	// maxFetching is from how many pieces on their way a node asks for no more: a
	// few that come fast are sooner passed on than many that come slowly. A bound on
	// what the node downloads may have it ask for fewer.
	maxFetching = 12
	// maxInMemory is the hard bound on pieces on their way, 96 MiB: concurrent
	// requests for offers may each get one, and pieces that hardly move do not
	// keep others from being requested.
	maxInMemory = 2 * maxFetching
	// A piece that has been on its way for trial, and would take longer than
	// tolerable in all, hardly comes.
	trial     = 2 * time.Second
	tolerable = 20 * time.Second
	// relief is how often at most one of them is given up, if others wait.
	relief = time.Second
)

// flight is a piece on its way.
type flight struct {
	arrival
	cancel context.CancelCauseFunc
}

// hardly tells whether the piece hardly moves.
func (fl *flight) hardly(now time.Time) bool {
	return fl.age(now) > trial && fl.behind(pieces.Size, tolerable, now)
}

// fetching counts a piece on its way, until the function that it returns is
// called; false if there is no memory for one more.
func (f *Fetcher) fetching(cancel context.CancelCauseFunc) (fl *flight, done func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Two more than lanes, because several requests may have got an offer
	// meanwhile.
	if n := len(f.onTheirWay); n >= maxInMemory || f.lanes < maxFetching && n >= f.lanes+2 {
		return nil, nil, false
	}
	fl = &flight{arrival{started: time.Now()}, cancel}
	f.onTheirWay[fl] = true
	return fl, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.onTheirWay, fl)
		close(f.arrived)
		f.arrived = make(chan struct{})
	}, true
}

// waitForSlot waits a while, if too many pieces are on their way, until one has
// arrived. It returns true if it did not have to wait.
func (f *Fetcher) waitForSlot(ctx context.Context) bool {
	coming, all, arrived := f.underWay(time.Now())
	if coming < f.lanes && all < maxInMemory {
		return true
	}
	timer := time.NewTimer(relief)
	defer timer.Stop()
	select {
	case <-arrived:
	case <-timer.C:
		if all >= maxInMemory {
			f.relieve(time.Now())
		}
	case <-ctx.Done():
	}
	return false
}

// underWay counts the pieces on their way, and those of them that do not hardly
// come.
func (f *Fetcher) underWay(now time.Time) (coming, all int, arrived chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := range f.onTheirWay {
		if !fl.hardly(now) {
			coming++
		}
	}
	return coming, len(f.onTheirWay), f.arrived
}

// relieve gives up a piece that hardly moves because others wait: the one of
// which the least is lost.
func (f *Fetcher) relieve(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.relieved) < relief {
		return
	}
	var least *flight
	for fl := range f.onTheirWay {
		if fl.hardly(now) && (least == nil || fl.got.Load() < least.got.Load()) {
			least = fl
		}
	}
	if least != nil {
		f.relieved = now
		least.cancel(errSlow)
	}
}
