package publish

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// Unpublished digests can be withdrawn in advance, and their number is bounded:
// however many there are, published ones can be withdrawn, and repeated
// withdrawals are answered from the ledger.
func TestWithdrawalsAheadAreBounded(t *testing.T) {
	w := newEnv(t, OnPull{})
	published := w.push("app", "1", "layer")
	w.mustPublish(t, "app:1")
	withdraw := func(d digest.Digest) (*control.RevokeResponse, error) {
		return w.Revoke(t.Context(), control.RevokeRequest{Image: "app:1", Digest: d.String(), Block: -1, Reason: "it has a backdoor"})
	}
	first, err := withdraw(digest.FromString("ahead"))
	if err != nil {
		t.Fatal(err)
	}
	var n, refused atomic.Int64
	together(3*aheadAtOnce, func() {
		_, err := withdraw(digest.FromString(fmt.Sprint(n.Add(1))))
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonBusy && refusal.RetryAfterSeconds > 0 {
			refused.Add(1)
		} else if err != nil {
			t.Error(err)
		}
	})
	if refused.Load() < aheadAtOnce {
		t.Errorf("%d of %d withdrawals of what nobody has published are refused for now, want most", refused.Load(), 3*aheadAtOnce)
	}
	size := w.Writer.Size()
	if again, err := withdraw(digest.FromString("ahead")); err != nil || again.Block.Height != first.Block.Height || w.Writer.Size() != size {
		t.Errorf("withdrawn again: %+v, %v", again, err)
	}
	if _, err := withdraw(published); err != nil {
		t.Errorf("withdrawing what is published: %v", err)
	}
}
