package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Age is how long ago the publisher signed the head, by its clock; or since when this
// node has it, over restarts, if that clock is ahead, or the publisher does not say.
func (l *Ledger) Age(now time.Time) time.Duration {
	at := l.now()
	if at.head == nil {
		return 0
	}
	signed := at.head.Said(now)
	if signed.IsZero() {
		signed = at.since
	}
	return max(0, now.Sub(signed))
}

// errNoTime is returned for a checkpoint without its time, of a ledger that says it.
var errNoTime = errors.New("the checkpoint does not say when it was signed")

// mustSayWhen refuses a checkpoint without a time if the head has one. Anyone can
// strip the publisher's cosignature, and a mirror that is cut off from its
// publisher would not become stale. Ledgers whose checkpoints never had a time are
// followed: they are as old as this node has had them.
func mustSayWhen(c, head ledger.Checkpoint) error {
	if head.Time.IsZero() || !c.Time.IsZero() {
		return nil
	}
	return fmt.Errorf("%w: the one of %d blocks does, so somebody has taken the time off this one of %d: fetch it from another peer", errNoTime, head.Tree.N, c.Tree.N)
}

// follows tells whether a checkpoint is to replace the head: it has more blocks,
// or as many and was signed later. A time that has not come yet is the least that
// a checkpoint can say.
func follows(c, head ledger.Checkpoint, now time.Time) bool {
	if c.Tree.N != head.Tree.N {
		return c.Tree.N > head.Tree.N
	}
	is, was := c.Said(now), head.Said(now)
	if is.IsZero() && was.IsZero() {
		return c.Time.After(head.Time)
	}
	return is.After(was)
}

// rolledBack tells whether a checkpoint with fewer blocks than the head was signed
// later, as far as both times can be believed.
func rolledBack(c, head ledger.Checkpoint, now time.Time) bool {
	is, was := c.Said(now), head.Said(now)
	return c.Tree.N < head.Tree.N && !was.IsZero() && is.After(was.Add(ledger.ClockSlack))
}
