package transfer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// What this node's own bound delays is not blamed on its peers, and is not
// requested twice; all of it arrives, however many clients want something at a
// time.
func TestOwnBoundIsNobodysFault(t *testing.T) {
	holders := []*testPeer{newPeer(t, setUp{}), newPeer(t, setUp{}), newPeer(t, setUp{})}
	var all []pieces.Blob
	for i := range 3 {
		blob, data := newBlob(t, pieces.Size+int64(i)+1)
		for _, h := range holders {
			h.put(t, blob, data)
		}
		all = append(all, blob)
	}
	small, data := newBlob(t, 1000)
	holders[0].put(t, small, data)
	p := newPeer(t, setUp{join: holders, bandwidth: Bandwidth{Download: 1 << 20}})
	var readers sync.WaitGroup
	for _, blob := range all {
		readers.Go(func() { p.read(t, blob) })
	}
	p.read(t, small)
	readers.Wait()
	if twice := p.metric(t, "pyrsia_transfer_duplicate_bytes_total", ""); twice != 0 {
		t.Errorf("%v bytes came twice", twice)
	}
	if slow := p.metric(t, "pyrsia_transfer_piece_errors_total", causeSlow); slow != 0 {
		t.Errorf("%v times a peer was called slow", slow)
	}
}

// Over a slow link, which all peers share, the pieces of a blob are asked of several of
// them only until it is known how long one takes.
func TestSlowLinkIsNobodysFault(t *testing.T) {
	link := newTurns(128 << 10)
	oneLink := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(&limitedWriter{w, r.Context(), []*turns{link}, shared}, r)
		})
	}
	var holders []*testPeer
	for range 3 {
		holders = append(holders, newPeer(t, setUp{libp2p: oneLink}))
	}
	p := newPeer(t, setUp{join: holders})
	sent := func() (sum float64) {
		for _, h := range holders {
			sum += h.metric(t, "pyrsia_transfer_sent_bytes_total", "")
		}
		return sum
	}
	for i := range 3 {
		blob, data := newBlob(t, maxWhole+4096+int64(i))
		for _, h := range holders {
			h.put(t, blob, data)
		}
		before, started := sent(), time.Now()
		p.read(t, blob)
		came := (sent() - before) / float64(blob.Size)
		t.Logf("blob %d: %.1f times its size was sent, in %s", i, came, time.Since(started).Round(100*time.Millisecond))
		if i > 0 && came > 1.1 {
			t.Errorf("of blob %d %.1f times its size was sent", i, came)
		}
	}
}

// A blob is opened before its first piece is there, if that comes.
func TestSlowBlobsAreOpenedInTime(t *testing.T) {
	blob, data := newBlob(t, pieces.Size+1)
	holder := newPeer(t, setUp{})
	holder.put(t, blob, data)
	for name, c := range map[string]setUp{
		"stored":    {},
		"passed on": {store: store.Config{Max: pieces.Size / 2}},
	} {
		t.Run(name, func(t *testing.T) {
			c.join, c.bandwidth = []*testPeer{holder}, Bandwidth{Download: 256 << 10}
			p := newPeer(t, c)
			ctx, cancel := context.WithTimeout(t.Context(), 13*time.Second) // a piece takes 16 s
			defer cancel()
			r, err := p.Open(ctx, blob, key)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := digest.FromReader(r); err != nil || got != blob.Digest {
				t.Errorf("read %s, %v", got, err)
			}
		})
	}
}

// Peers that hang keep no layer back for which a full disk has no room.
func TestHangingPeersKeepNothingFromAFullDisk(t *testing.T) {
	blob, data := newBlob(t, 2*pieces.Size)
	honest := newPeer(t, setUp{})
	honest.put(t, blob, data)
	p := newPeer(t, setUp{join: []*testPeer{honest}, store: store.Config{Max: pieces.Size}})
	crowd(t, p, 12, hang)
	q, ok := p.host.Peer(honest.host.ID())
	if !ok {
		t.Fatal("the honest peer has gone")
	}
	q.Avoid(time.Hour)
	p.read(t, blob)
	if p.store.Has(blob.Digest) {
		t.Error("there was room")
	}
}

// A refusal names the peers that had the artifact and are gone. It is not
// looked for again immediately, but as soon as there is a new peer.
func TestRefusalsNameWhoHadIt(t *testing.T) {
	for name, size := range map[string]int64{"one piece": 1000, "pieces": 2*pieces.Size + 1} {
		t.Run(name, func(t *testing.T) {
			first, data := newBlob(t, 10)
			wanted, content := newBlob(t, size)
			holder := newPeer(t, setUp{})
			holder.put(t, first, data)
			p := newPeer(t, setUp{join: []*testPeer{holder}})
			p.read(t, first) // of the same artifact
			id := holder.host.ID().String()
			holder.close()
			for _, connected := p.host.Peer(holder.host.ID()); connected; _, connected = p.host.Peer(holder.host.ID()) {
				time.Sleep(10 * time.Millisecond)
			}
			for range 2 {
				_, err := p.Open(bounded(t, time.Minute), wanted, key)
				if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), id+" (last at /ip4/127.0.0.1/tcp/") {
					t.Errorf("got %v, want a refusal that names %s", err, id)
				}
			}
			other := newPeer(t, setUp{join: []*testPeer{p}})
			other.put(t, wanted, content)
			p.awaitPeersOf(t, []*testPeer{other})
			p.read(t, wanted)
		})
	}
}

// A client that asks for what only a hanging peer is said to have is refused, and
// not left waiting until it gives up.
func TestOnlyHangingPeersAreLeft(t *testing.T) {
	for name, size := range map[string]int64{"one piece": 1000, "pieces": 2*pieces.Size + 1} {
		t.Run(name, func(t *testing.T) {
			blob, _ := newBlob(t, size)
			p := newPeer(t, setUp{})
			crowd(t, p, 3, hang)
			if _, err := p.Open(bounded(t, 10*time.Second), blob, key); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Of what waits for a bound, what is small goes first, and then what began first.
func TestTurns(t *testing.T) {
	turns := newTurns(1 << 30)
	if err := turns.take(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turns.take(gone, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("a turn of who has gone: %v", err)
	}
	now := time.Now()
	order := make(chan string, 3)
	waiting := func() int {
		turns.mu.Lock()
		defer turns.mu.Unlock()
		return len(turns.waiting)
	}
	var all sync.WaitGroup
	for i, w := range []struct {
		name  string
		began time.Time
	}{{"later", now}, {"earlier", now.Add(-time.Second)}, {"small", rank(now, 1000)}} {
		all.Go(func() {
			if err := turns.take(t.Context(), w.began); err != nil {
				t.Error(err)
				return
			}
			order <- w.name
			turns.give()
		})
		for waiting() <= i {
			time.Sleep(time.Millisecond)
		}
	}
	turns.give()
	all.Wait()
	if got := []string{<-order, <-order, <-order}; strings.Join(got, " ") != "small earlier later" {
		t.Errorf("got %v", got)
	}
}

// slowStart answers with nothing for a while.
func slowStart(after time.Duration) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(after)
			h.ServeHTTP(w, r)
		})
	}
}

// A peer with much to do is late, and delivers.
func TestLatePeersDeliver(t *testing.T) {
	for name, size := range map[string]int64{"one piece": 1000, "pieces": 2*pieces.Size + 1} {
		t.Run(name, func(t *testing.T) {
			blob, data := newBlob(t, size)
			holder := newPeer(t, setUp{libp2p: slowStart(1500 * time.Millisecond)})
			holder.put(t, blob, data)
			newPeer(t, setUp{join: []*testPeer{holder}}).read(t, blob)
		})
	}
}
