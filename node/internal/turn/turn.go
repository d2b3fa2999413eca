// Package turn lets one caller at a time work on a key, while others work on
// other keys. It imports nothing of this project; upstream and the ledger
// use it for work that must not be done twice.
package turn

import (
	"context"
	"sync"
)

// Turns are one turn for each key. The zero value is ready for use, by any number of
// goroutines.
type Turns struct {
	mu    sync.Mutex               // guards taken
	taken map[string]chan struct{} // closed when the turn is over
}

// Take waits for the turn of a key, and returns how to end it. The error is that of
// ctx.
func (t *Turns) Take(ctx context.Context, key string) (end func(), err error) {
	for {
		t.mu.Lock()
		other, taken := t.taken[key]
		if !taken {
			defer t.mu.Unlock()
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			own := make(chan struct{})
			t.taken[key] = own
			return func() { t.end(key, own) }, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (t *Turns) end(key string, own chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, key)
	close(own)
}
