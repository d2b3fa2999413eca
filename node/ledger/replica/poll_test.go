package replica

import (
	"context"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// unchanging is a source whose ledger does not grow.
type unchanging []byte

func (s unchanging) ReadEndpoint(context.Context, string) ([]byte, error) { return s, nil }
func (unchanging) ReadTiles(context.Context, []tlog.Tile) ([][]byte, error) {
	panic("nothing is missing")
}
func (unchanging) SaveTiles([]tlog.Tile, [][]byte) {}

// A mirror asks all the time, and gets what it has: no signature is verified for that.
func TestUnchangedLedgerCostsNothing(t *testing.T) {
	p := newPublisher(t)
	p.mustAppend(t, alpine, "x")
	f := newFollower(t, p.vkey)
	if grown, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil || !grown {
		t.Fatal(grown, err)
	}
	head, _ := f.Head()
	source := unchanging(head.Signed)
	if n := testing.AllocsPerRun(100, func() {
		if grown, err := f.Sync(t.Context(), source); err != nil || grown {
			t.Fatal(grown, err)
		}
	}); n > 20 { // reading the checkpoint alone takes more than 60
		t.Errorf("%v allocations", n)
	}
}
