package turn

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		var inside, most atomic.Int64
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				end, err := turns.Take(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				inside.Add(-1)
				end()
			})
		}
		group.Wait()
		if most.Load() != 1 || len(turns.taken) != 0 {
			t.Errorf("%d at a time, %d turns are left: want 1 and none", most.Load(), len(turns.taken))
		}
	})
}

func TestWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		end, err := turns.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if endB, err := turns.Take(t.Context(), "b"); err != nil {
			t.Errorf("another key: %v", err)
		} else {
			endB()
		}
		gone, cancel := context.WithCancelCause(t.Context())
		why := errors.New("no time")
		cancel(why)
		if _, err := turns.Take(gone, "a"); !errors.Is(err, why) {
			t.Errorf("whose time is over: %v, want its cause", err)
		}
		got := make(chan struct{})
		go func() {
			if endA, err := turns.Take(t.Context(), "a"); err == nil {
				endA()
				close(got)
			}
		}()
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("two have the turn")
		default:
		}
		end()
		synctest.Wait()
		select {
		case <-got:
		default:
			t.Error("the turn is over, and the next one waits")
		}
	})
}
