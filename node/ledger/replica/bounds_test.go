package replica

import (
	"runtime"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// allocated is how many bytes do takes, given back since or not.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Entries that are larger than most come in bundles.
func TestLargeEntriesAreFollowed(t *testing.T) {
	p := newPublisher(t)
	p.mustAppend(t, alpine, "first")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	for range 3 {
		large := []byte(`{"type":"LargeThing","version":1,"text":"` + strings.Repeat("x", ledger.MaxEntrySize-100) + `"}`)
		if _, err := p.add(t.Context(), large); err != nil {
			t.Fatal(err)
		}
	}
	if grown, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil || !grown || f.Size() != p.Size() {
		t.Fatalf("grown %v to %d of %d blocks, %v", grown, f.Size(), p.Size(), err)
	}
}
