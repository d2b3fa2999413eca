package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

// Clients give up on a mirror that does not answer for 30 s, and a late refusal
// delays what is pulled next. So a blob is refused as soon as no peer is left
// that may have it, and the response begins before its first bytes are there
// while they are on their way.
const (
	// headerAfter is how long to wait for the first verified bytes; after that it
	// is enough that they are on their way.
	headerAfter = 8 * time.Second
	lookEvery   = 250 * time.Millisecond
	// againAfter is for how long an unavailable blob is not looked for again,
	// unless there is a new peer. Clients ask several times for what is
	// refused.
	againAfter = 3 * time.Second
	// maxAttempts bounds what is remembered of that, and maxGone the nodes that
	// are named in one refusal.
	maxAttempts = 256
	maxGone     = 3
)

// errArriving ends await before the first bytes are there.
var errArriving = errors.New("it is arriving")

// await waits for the first bytes of a blob. look is called again and again: an
// error of it ends the waiting, and errArriving does so without an error.
func await(ctx context.Context, look func(waited time.Duration) error, wait func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		started := time.Now()
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := look(time.Since(started)); err != nil {
					cancel(err)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	err := wait(ctx)
	if errors.Is(err, errArriving) {
		return nil
	}
	return err
}

// look is await's.
func (d *download) look(waited time.Duration) error {
	if waited > headerAfter && d.arriving(time.Now()) {
		return errArriving
	}
	if d.swarm.lost.Load() {
		return d.f.unavailable(d.blob.Digest, d.key, d.swarm.lastError())
	}
	return nil
}

// arriving tells whether a part of the blob is arriving, or will when it is its turn.
func (d *download) arriving(now time.Time) bool {
	_, arriving, queued := d.heard(now)
	return arriving || queued && d.f.arriving(now) && d.f.holderThere(d.key)
}

// heard tells when a piece, or a part of one, arrived last; whether one is arriving
// now; and whether members wait for the pieces of others to arrive first.
func (d *download) heard(now time.Time) (last time.Time, arriving, queued bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last = d.progress
	for _, fetches := range d.fetches {
		for _, f := range fetches {
			arriving = arriving || f.arriving(now)
			if heard := time.Unix(0, f.heard.Load()); heard.After(last) {
				last = heard
			}
		}
	}
	return last, arriving, d.queued > 0
}

// queue counts the members that wait for a slot.
func (d *download) queue(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queued += n
}

// stalled is for how long no byte has arrived, although it could have.
func (d *download) stalled(now time.Time) time.Duration {
	last, arriving, queued := d.heard(now)
	if arriving || queued && d.f.arriving(now) {
		return 0
	}
	return now.Sub(last)
}

// arriving tells whether pieces of any blob are arriving.
func (f *Fetcher) arriving(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := range f.onTheirWay {
		if fl.arriving(now) {
			return true
		}
	}
	return false
}

// holderThere tells whether a peer that has delivered something of an artifact
// is connected.
func (f *Fetcher) holderThere(key digest.Digest) bool {
	return slices.ContainsFunc(f.holders.of(key), func(id peer.ID) bool {
		_, ok := f.network.Peer(id)
		return ok
	})
}

// awaitPeers waits for a first peer: a node that has just started or was cut
// off finds one quickly, or not at all.
func (f *Fetcher) awaitPeers(ctx context.Context) {
	tick := time.NewTicker(firstPeer / 100)
	defer tick.Stop()
	for f.waitsForPeers(time.Now()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (f *Fetcher) waitsForPeers(now time.Time) bool {
	there := len(f.network.Peers()) > 0
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case there:
		f.alone = time.Time{}
	case f.alone.IsZero():
		f.alone = now
	}
	return !there && now.Sub(f.alone) < firstPeer
}

// attempt is how the search for a blob ended.
type attempt struct {
	at    time.Time
	peers map[*p2p.Peer]bool // that were there
	err   error
}

func newAttempts() *lru.Cache[digest.Digest, attempt] {
	attempts, err := lru.New[digest.Digest, attempt](maxAttempts)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return attempts
}

// recentFailure is why a blob was unavailable a moment ago; nil if it is worth a
// try.
func (f *Fetcher) recentFailure(blob digest.Digest, now time.Time) error {
	last, ok := f.failures.Get(blob)
	if !ok || now.Sub(last.at) > againAfter {
		return nil
	}
	for _, p := range f.network.Peers() {
		if !last.peers[p] {
			return nil
		}
	}
	return last.err
}

// unavailable says that no peer has a blob, and which ones had something of its
// artifact and cannot be reached.
func (f *Fetcher) unavailable(blob, key digest.Digest, causes ...error) error {
	had := f.holders.of(key)
	var gone []string
	for _, info := range f.network.Gone(func(id peer.ID) bool { return slices.Contains(had, id) }) {
		if len(gone) == maxGone {
			gone = append(gone, "and others")
			break
		}
		gone = append(gone, p2p.Describe(info))
	}
	err := ErrUnavailable
	if len(gone) > 0 {
		err = fmt.Errorf("%w; out of reach is who had it: %s", ErrUnavailable, strings.Join(gone, ", "))
	}
	err = errors.Join(append([]error{err}, causes...)...)
	peers := map[*p2p.Peer]bool{}
	for _, p := range f.network.Peers() {
		peers[p] = true
	}
	f.failures.Add(blob, attempt{time.Now(), peers, err})
	return err
}
