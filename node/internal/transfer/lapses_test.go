package transfer

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// Peers that take offers and fetch nothing keep the places from others only for a
// moment, however many identities they have.
func TestOffersThatLapseHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrants(func(peer.ID) bool { return true })
		const count = 40
		blob := digest.FromString("a layer")
		want := pieces.NewSet(count)
		for i := range count {
			want.Add(i)
		}
		ask := func(id, client string) *asking {
			return &asking{blob: blob, count: count, peer: peer.ID(id), client: client, want: want, alone: true}
		}
		for i := range 40 {
			go func() {
				for t.Context().Err() == nil {
					g.wait(t.Context(), ask(fmt.Sprint("greedy ", i), "192.0.2.1"))
				}
			}()
		}
		time.Sleep(offerValid)
		began := time.Now()
		for n := range count {
			for {
				i, ok := g.wait(t.Context(), ask("honest", "192.0.2.2"))
				if ok {
					done := g.send(blob, i)
					time.Sleep(100 * time.Millisecond)
					done(true)
					time.Sleep(5 * time.Millisecond) // until it asks again others take the place
					break
				}
				if waited := time.Since(began); waited > 12*time.Second {
					t.Fatalf("%d of %d pieces in %s", n, count, waited)
				}
			}
		}
		t.Logf("%d pieces in %s", count, time.Since(began))
	})
}

// A client that lets a few offers lapse is not held up, and one that takes up
// others is forgiven.
func TestLapsesAreForgiven(t *testing.T) {
	l, now := newLapses(), time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for range freeLapses {
		l.add("client", now)
	}
	if wait := l.wait("client", now); wait > 0 {
		t.Errorf("after %d lapses it waits %s", freeLapses, wait)
	}
	l.add("client", now)
	if wait := l.wait("client", now); wait != lapseWait {
		t.Errorf("after one more it waits %s", wait)
	}
	now = now.Add(lapseWait)
	l.forgive("client")
	l.add("client", now)
	if wait := l.wait("client", now); wait > 0 {
		t.Errorf("after it has fetched something it waits %s", wait)
	}
	for range 100 {
		l.add("client", now)
	}
	if wait := l.wait("client", now); wait != maxLapseWait {
		t.Errorf("after many it waits %s", wait)
	}
	now = now.Add(3 * maxLapseWait)
	l.add("client", now)
	if wait := l.wait("client", now); wait > 0 {
		t.Errorf("long after them it waits %s", wait)
	}
}
