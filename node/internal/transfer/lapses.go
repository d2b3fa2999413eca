package transfer

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// freeLapses is how many offers a client may let lapse: what it was offered it
	// may have had from elsewhere meanwhile, or its process ended.
	freeLapses = maxPerPeer
	// lapseWait doubles with each lapse after that, up to maxLapseWait.
	lapseWait    = time.Second
	maxLapseWait = time.Minute
	// maxLapsing bounds the clients of which it is remembered.
	maxLapsing = 1024
)

// lapses are the offers that clients have not taken up. They are counted by
// address and not by identity, because anyone can create identities. Without
// the count, peers that take all slots and fetch nothing would slow the others
// down.
type lapses struct {
	of *lru.Cache[string, lapse]
}

type lapse struct {
	count int
	until time.Time // when the client is offered something again
}

func newLapses() lapses {
	of, err := lru.New[string, lapse](maxLapsing)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return lapses{of}
}

func (l lapses) add(client string, now time.Time) {
	was, _ := l.of.Peek(client)
	if now.Sub(was.until) > maxLapseWait {
		was = lapse{} // a while ago
	}
	was.count++
	was.until = now
	if over := was.count - freeLapses; over > 0 {
		was.until = now.Add(min(lapseWait<<min(over-1, 10), maxLapseWait))
	}
	l.of.Add(client, was)
}

// forgive is for a client that took up an offer.
func (l lapses) forgive(client string) {
	if was, ok := l.of.Peek(client); ok {
		was.count /= 2
		l.of.Add(client, was)
	}
}

// wait is how long a client is offered nothing more.
func (l lapses) wait(client string, now time.Time) time.Duration {
	was, _ := l.of.Peek(client)
	return was.until.Sub(now)
}
