package p2p

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// What a node announces does not grow with what it holds.
func TestAnnouncingIsFlat(t *testing.T) {
	for _, artifacts := range []int{1, 100, maxAnnounced, maxAnnounced + 1, 10_000, 100_000} {
		a := newAnnouncer()
		for i := range artifacts {
			a.set(digest.FromString(fmt.Sprint(i)), true)
		}
		keys := len(a.keys(time.Now()))
		t.Logf("%d artifacts: %d keys", artifacts, keys)
		if keys > max(maxAnnounced, shards) || artifacts <= maxAnnounced && keys != artifacts {
			t.Errorf("%d artifacts are announced by %d keys", artifacts, keys)
		}
		for i := range artifacts {
			a.set(digest.FromString(fmt.Sprint(i)), false)
		}
		if left := len(a.keys(time.Now())); left != 0 {
			t.Errorf("%d keys are left of nothing", left)
		}
	}
}
