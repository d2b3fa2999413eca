package crash

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// observe has the auditor compare what a process serves with all that it has seen.
func (c *campaign) observe(addr string) {
	ctx, cancel := context.WithTimeout(c.t.Context(), startTimeout)
	defer cancel()
	_, err := c.auditor.Sync(ctx, client.New("http://"+addr, http.DefaultClient))
	if evidence, eerr := c.evidence(); err != nil || eerr != nil || len(evidence) > 0 {
		c.t.Fatalf("the auditor: %v, %v; evidence %+v", err, eerr, evidence)
	}
}

// evidence is what the auditor has refused; a new key of the publisher is not a
// refusal.
func (c *campaign) evidence() ([]ledger.Evidence, error) {
	all, err := c.auditor.Evidence()
	return slices.DeleteFunc(all, func(e ledger.Evidence) bool { return e.Kind == ledger.EvidenceNewKey }), err
}

// audit reads the ledgers that the processes left.
func (c *campaign) audit(rounds int) {
	t := c.t
	ctx := t.Context()
	for _, name := range []string{"publisher", "mirror"} {
		problems, blocks, err := (&replica.Check{Path: filepath.Join(c.dir, name), Key: c.vkeyOf(name), Repair: true}).Run(ctx)
		if err != nil || blocks < 0 {
			t.Errorf("fsck of the %s: %d blocks, %v", name, blocks, err)
		}
		for _, p := range problems {
			if p.Message != "a crash left it" || !p.Repaired {
				t.Errorf("fsck of the %s: %+v", name, p)
			}
		}
	}
	w, err := replica.OpenWriter(ctx, filepath.Join(c.dir, "publisher"), strings.Join(c.keys, "\n"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lost, doubled, acked := 0, 0, 0
	for client, heights := range c.acked {
		image, err := ledger.ParseImage(imageOf(client))
		if err != nil {
			t.Fatal(err)
		}
		history, err := w.History(ctx, image, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(history) // the oldest first
		for i, e := range history {
			if e.Artifact.Size != int64(i+1) {
				doubled++
				t.Errorf("client %d: block %d is its entry %d, want %d: doubled or lost", client, e.Height, e.Artifact.Size-1, i)
				break
			}
		}
		for n, height := range heights {
			acked++
			if n >= len(history) || history[n].Height != height {
				lost++
				t.Errorf("client %d: entry %d was acknowledged as block %d, and is not there", client, n, height)
			}
		}
	}
	for height, by := range c.revoked {
		e, err := w.Entry(ctx, height)
		if err != nil {
			t.Fatal(err)
		}
		if revocation, err := w.RevokedBy(ctx, e); err != nil || revocation == nil || revocation.Height != by {
			lost++
			t.Errorf("block %d was revoked by block %d, and is not: %v, %v", height, by, revocation, err)
		}
	}
	c.checkWithdrawals(w)
	// The mirror's copy is a part of the same ledger, and goes on.
	f, err := replica.OpenFollower(ctx, filepath.Join(c.dir, "mirror"), c.vkey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	addr := freeAddr(t)
	if err := serve(w.Ledger, addr); err != nil {
		t.Fatal(err)
	}
	for _, copied := range []*replica.Follower{f, c.auditor} {
		if _, err := copied.Sync(ctx, client.New("http://"+addr, http.DefaultClient)); err != nil {
			t.Error(err)
		}
		head, _ := copied.Head()
		if err := w.Contains(ctx, head); err != nil || head.Tree.N != w.Size() {
			t.Errorf("a copy of %d blocks, of %d: %v", head.Tree.N, w.Size(), err)
		}
	}
	evidence, err := c.evidence()
	if err != nil || len(evidence) > 0 {
		t.Errorf("the auditor's evidence: %+v, %v", evidence, err)
	}
	t.Logf("%d rounds: %d blocks, %d acknowledged, %d revocations, %d rotations; lost %d, doubled or missing %d, forks and other evidence %d; %d restarts, the slowest %s",
		rounds, w.Size(), acked, len(c.revoked), len(w.Rotations()), lost, doubled, len(evidence), len(c.starts), slices.Max(append(c.starts, 0)).Round(time.Millisecond))
	if acked == 0 {
		t.Error("the campaign has shown nothing: no append was acknowledged")
	}
}

// vkeyOf is a key by which a ledger that was left can be verified.
func (c *campaign) vkeyOf(name string) string {
	if name == "mirror" {
		return c.vkey
	}
	_, vkey, err := ledger.NewSigner(c.keys[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return vkey
}

// checkWithdrawals checks that each block of a withdrawn digest has a revocation
// of its own, also where the publisher was killed in between.
func (c *campaign) checkWithdrawals(w *replica.Writer) {
	all, err := w.Withdrawals(c.t.Context(), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	digests := 0
	for _, by := range all {
		if by.Withdrawal == nil {
			continue
		}
		digests++
		for e, err := range w.Naming(c.t.Context(), by.Withdrawal.Digest) {
			if err != nil {
				c.t.Fatal(err)
			}
			if revoked, err := w.RevokedBy(c.t.Context(), e); err != nil || revoked == nil || revoked.Revocation == nil {
				c.t.Errorf("block %d of the withdrawn digest %s is revoked by %+v, %v", e.Height, by.Withdrawal.Digest, revoked, err)
			}
		}
	}
	c.t.Logf("%d digests were withdrawn", digests)
}
