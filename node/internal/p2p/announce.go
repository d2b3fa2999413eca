package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/opencontainers/go-digest"
)

// A node announces the artifacts that it holds, not their blobs. Up to
// maxAnnounced it announces each one. A node that holds more holds a good part
// of all there is: it announces in which of 256 shards of all digests it holds
// something, and is asked. So the cost does not grow with the content.
const (
	maxAnnounced = 512
	shards       = 256
	// recordValidity is how long other nodes keep a record. A record cannot be
	// withdrawn; following a stale one costs one failed request.
	recordValidity = 8 * time.Hour
	announceAgain  = 5 * time.Hour
	announceRetry  = 10 * time.Second
	announceWait   = time.Minute // of one announcement
	// announcePause is between two announcements, so that a node that comes
	// with a full disk does not flood the network.
	announcePause = 20 * time.Millisecond
	// sweepInterval is how often a node looks what it does not have any more.
	sweepInterval = 10 * time.Minute
)

// shardOf is the first byte of a digest.
func shardOf(d digest.Digest) byte {
	b, err := hex.DecodeString(d.Encoded()[:2])
	if err != nil {
		return 0 // not a digest: no node has it
	}
	return b[0]
}

// shardID is the key of a shard in the DHT.
func shardID(shard byte) cid.Cid {
	sum := sha256.Sum256(fmt.Appendf(nil, "pyrsia shard %02x", shard))
	hash, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		panic(err) // only for an unknown code
	}
	return cid.NewCidV1(cid.Raw, hash)
}

// announcer knows what this node holds and what of it the network knows.
type announcer struct {
	mu      sync.Mutex // guards what follows
	held    map[digest.Digest]bool
	inShard [shards]int
	due     map[cid.Cid]time.Time // of the keys that were announced: when again
	more    chan struct{}
}

func newAnnouncer() *announcer {
	return &announcer{held: map[digest.Digest]bool{}, due: map[cid.Cid]time.Time{}, more: make(chan struct{}, 1)}
}

// set notes whether the node holds an artifact.
func (a *announcer) set(d digest.Digest, held bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held[d] == held || d.Validate() != nil {
		return
	}
	if !held {
		delete(a.held, d)
		a.inShard[shardOf(d)]--
		return
	}
	a.held[d] = true
	a.inShard[shardOf(d)]++
	select {
	case a.more <- struct{}{}:
	default: // it is awake
	}
}

// keys are the keys that are due for announcement.
func (a *announcer) keys(now time.Time) (out []cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted := map[cid.Cid]bool{}
	if len(a.held) <= maxAnnounced {
		for d := range a.held {
			if id, err := contentID(d); err == nil {
				wanted[id] = true
			}
		}
	} else {
		for shard, n := range a.inShard {
			if n > 0 {
				wanted[shardID(byte(shard))] = true
			}
		}
	}
	for id := range a.due {
		if !wanted[id] {
			delete(a.due, id)
		}
	}
	for id := range wanted {
		if !now.Before(a.due[id]) {
			out = append(out, id)
		}
	}
	return out
}

func (a *announcer) again(id cid.Cid, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due[id] = at
}

// Announce tells the network, soon, that this node has something of an artifact.
func (h *Host) Announce(list digest.Digest) { h.announcer.set(list, true) }

// sweep withdraws the artifacts that the node does not have any more.
func (a *announcer) sweep(holds func(digest.Digest) bool) {
	a.mu.Lock()
	held := slices.Collect(maps.Keys(a.held))
	a.mu.Unlock()
	for _, d := range held {
		if !holds(d) {
			a.set(d, false)
		}
	}
}

// Announced is the number of artifacts that are held, and of the keys in the
// DHT under which the network knows it.
func (h *Host) Announced() (artifacts, keys int) {
	h.announcer.mu.Lock()
	defer h.announcer.mu.Unlock()
	return len(h.announcer.held), len(h.announcer.due)
}

// announceAll runs for as long as the node lives.
func (h *Host) announceAll(ctx context.Context) {
	swept := time.Now()
	for {
		if time.Since(swept) > sweepInterval {
			h.announcer.sweep(h.config.Holds)
			swept = time.Now()
		}
		for _, id := range h.announcer.keys(time.Now()) {
			at := time.Now().Add(announceAgain)
			if err := h.provide(ctx, id); err != nil {
				at = time.Now().Add(announceRetry)
				h.config.Log.Debug("announcing content", "error", err)
			}
			h.announcer.again(id, at)
			if !sleep(ctx, announcePause) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-h.announcer.more:
		case <-time.After(announceRetry):
		}
	}
}

func (h *Host) provide(ctx context.Context, id cid.Cid) error {
	if h.dht.RoutingTable().Size() == 0 {
		return fmt.Errorf("announcing %s: no peers", id)
	}
	ctx, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	if err := h.dht.Provide(ctx, id, true); err != nil {
		return fmt.Errorf("announcing %s: %w", id, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
