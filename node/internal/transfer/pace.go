package transfer

import (
	"sync"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// fastestFor is for how long the fastest piece is a measure for others.
const fastestFor = 5 * time.Minute

// fastest is how long the fastest of the latest pieces took. It measures this node's
// own link: over a slow one all pieces take long, which is no reason to request them
// from several peers. Peers that are slow on purpose do not change it while others
// deliver.
type fastest struct {
	mu   sync.Mutex // guards what follows; nothing else is locked while it is held
	took time.Duration
	at   time.Time
}

// came notes a piece. Small ones do not measure the link.
func (f *fastest) came(length int, took time.Duration, now time.Time) {
	if length < maxWhole {
		return
	}
	took = time.Duration(float64(took) * pieces.Size / float64(length))
	f.mu.Lock()
	defer f.mu.Unlock()
	if took <= f.took || now.Sub(f.at) > fastestFor {
		f.took, f.at = took, now
	}
}

// of is how long a piece of a length takes, by that measure; 0 if none has come lately.
func (f *fastest) of(length int64, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.at) > fastestFor {
		return 0
	}
	return time.Duration(float64(f.took) * float64(length) / pieces.Size)
}
