package mirror

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A failed search is remembered until the ledger grows; an unreachable piece
// list only for a moment.
func TestUnknownIsForgottenWhenTheLedgerGrows(t *testing.T) {
	u, err := newSearches()
	if err != nil {
		t.Fatal(err)
	}
	now, w := time.Now(), wanted{"docker.io/library/app", digest.FromString("x")}
	tree, larger := tlog.Tree{N: 1}, tlog.Tree{N: 2}
	for _, err := range []error{nil, &ledger.WithdrawnError{}, fmt.Errorf("the disk is broken")} {
		u.add(w, tree, err, now)
		if got := u.refusal(w, tree, now); got != nil {
			t.Errorf("%v is remembered: %v", err, got)
		}
	}
	u.add(w, tree, errNotOnLedger, now)
	if u.refusal(w, tree, now.Add(time.Hour)) == nil || u.refusal(w, larger, now) != nil || u.refusal(wanted{"docker.io/library/other", w.digest}, tree, now) != nil {
		t.Error("what is not on the ledger is remembered for another ledger, or forgotten")
	}
	u.add(w, tree, fmt.Errorf("%w: no peer", errUnsure), now)
	if u.refusal(w, tree, now.Add(unsureFor/2)) == nil || u.refusal(w, tree, now.Add(unsureFor)) != nil {
		t.Error("what is out of reach is tried again too early or too late")
	}
}
