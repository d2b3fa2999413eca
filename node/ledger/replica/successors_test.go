package replica

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The thief cuts the copy before the rotation: two histories, each with a key that
// the pinned one has named. Whichever a mirror hears of first, it adopts neither
// once it knows of both, and serves on.
func TestTwoSuccessorsAreNotFollowed(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	stolen, _ := newKey(t)
	offline := func() *Follower {
		f := newFollower(t, r.oldVkey)
		old := &publisher{path: copyDir(t, r.before), skey: r.oldSkey, vkey: r.oldVkey}
		old.open(t)
		mustFollow(t, f, old)
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	victims := []*Follower{offline(), offline()}
	thief := r.thief(t, r.before, r.oldSkey, stolen)
	thief.mustAppend(t, "docker.io/library/evil:1", "evil")
	if err := thief.Close(); err != nil {
		t.Fatal(err)
	}
	thief.openAnyway(t, stolen)
	thief.mustAppend(t, "docker.io/library/evil:1", "more evil")
	evil, honest := serve(t, thief.Ledger), serve(t, r.publisher.Ledger)
	for i, first := range []*client.Client{evil, honest} {
		f := victims[i]
		f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{evil, honest} }
		size := f.Size()
		for _, source := range []*client.Client{first, evil, honest} {
			if grown, err := f.Sync(t.Context(), source); !errors.Is(err, ErrTwoSuccessors) || grown {
				t.Errorf("with both to be heard of, %s was followed: %v, %v", source, grown, err)
			}
		}
		mustNewestKey(t, f, r.oldVkey)
		image, _ := ledger.ParseImage(alpine)
		if _, err := f.Latest(t.Context(), image); err != nil || f.Size() != size {
			t.Errorf("it does not serve on: %d blocks, %v", f.Size(), err)
		}
		evidence, err := f.Evidence()
		if err != nil || len(evidence) == 0 || evidence[0].Kind != ledger.EvidenceTwoSuccessors || len(evidence[0].Rotations) != 2 {
			t.Errorf("evidence %+v, %v", evidence, err)
		}
		// After a restart it still knows, though only one of them is there.
		f = f.reopen(t, r.oldVkey)
		if _, err := f.Sync(t.Context(), first); !errors.Is(err, ErrTwoSuccessors) {
			t.Errorf("after a restart: %v", err)
		}
		// A person pins the publisher's.
		f = f.reopen(t, r.newVkey)
		mustFollow(t, f, r.publisher)
		mustNewestKey(t, f, r.newVkey)
	}
}

// A chain of keys, of which a mirror has seen none but the first.
func TestLongChainsAreFollowed(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	keys, vkeys := []string{p.skey}, []string{p.vkey}
	early := newFollower(t, p.vkey)
	p.mustAppend(t, alpine, "one")
	mustFollow(t, early, p)
	for i := range 6 {
		skey, vkey := newKey(t)
		if err := p.reopen(t, keys[i], skey); err != nil {
			t.Fatal(err)
		}
		if err := p.reopen(t, skey); err != nil {
			t.Fatal(err)
		}
		keys, vkeys = append(keys, skey), append(vkeys, vkey)
		p.mustAppend(t, alpine, fmt.Sprint(i))
	}
	mustFollow(t, early, p)
	for i, vkey := range vkeys {
		f := newFollower(t, vkey)
		mirror := serve(t, early.Ledger)
		if _, err := f.Sync(t.Context(), mirror); err != nil {
			t.Errorf("who pinned key %d: %v", i, err)
			continue
		}
		mustNewestKey(t, f, vkeys[len(vkeys)-1])
		f = f.reopen(t, vkey)
		mustNewestKey(t, f, vkeys[len(vkeys)-1])
		if f.Size() != p.Size() {
			t.Errorf("who pinned key %d has %d blocks after a restart", i, f.Size())
		}
	}
}

// The holder of an old key can make any number of successors: they are not all
// remembered, and none of them evicts the two that matter.
func TestHandOversHeardAreBounded(t *testing.T) {
	t.Parallel()
	s := newSuccessors()
	name := func(previous string) (ledger.Rotation, string) {
		_, next := newKey(t)
		data, err := (&ledger.RotateKey{Type: ledger.TypeRotateKey, Version: 1, Previous: previous, Key: next, Time: time.Now().UTC().Truncate(time.Second)}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return ledger.Rotation{Entry: string(data)}, next
	}
	_, first := newKey(t)
	one, key := name(first)
	s.add("", one)
	for range 2 * maxHeard {
		var r ledger.Rotation
		r, key = name(key)
		s.add("", r)
	}
	if len(s.heard) > maxHeard {
		t.Errorf("hand-overs of %d keys are remembered", len(s.heard))
	}
	if two, _ := name(first); !s.add("", two) || len(s.of(first)) != 2 {
		t.Error("the second key that the first one names is not heard")
	}
	_, newest := newKey(t)
	if r, _ := name(newest); !s.add(newest, r) {
		t.Error("what the newest key names is not heard")
	}
}
