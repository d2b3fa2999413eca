package node

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	maxMissing   = 1024 // corrupt blobs that wait to be fetched again
	healInterval = time.Minute
	healTimeout  = 10 * time.Minute
	// The store is read through again and again, about 20 GiB in 15 minutes.
	scrubRate = 24 << 20 // bytes per second
	scrubRest = time.Hour
)

// foundCorrupt is called by the store, and does not wait.
func (n *Node) foundCorrupt(d digest.Digest) {
	select {
	case n.missing <- d:
	default: // a mirror fetches it again when a client asks for it
	}
}

// heal brings corrupt blobs back from peers, and tries again those that no
// peer has now.
func (n *Node) heal(ctx context.Context) {
	failed := map[digest.Digest]bool{}
	tick := time.NewTicker(healInterval)
	defer tick.Stop()
	for {
		var now []digest.Digest
		select {
		case d := <-n.missing:
			now = []digest.Digest{d}
		case <-tick.C:
			for d := range failed {
				now = append(now, d)
			}
		case <-ctx.Done():
			return
		}
		for _, d := range now {
			if err := n.healOne(ctx, d); err == nil {
				delete(failed, d)
			} else if ctx.Err() == nil && len(failed) < maxMissing {
				failed[d] = true
				n.log.Debug("a corrupt blob is not healed yet", "digest", d, "error", err)
			}
		}
	}
}

func (n *Node) healOne(ctx context.Context, d digest.Digest) error {
	ctx, cancel := context.WithTimeout(ctx, healTimeout)
	defer cancel()
	if err := n.healer.Heal(ctx, d); err != nil {
		return err
	}
	if n.store.Has(d) {
		n.log.Info("a corrupt blob was fetched again from a peer", "digest", d)
	}
	return nil
}
