package publish

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func TestRevokedImagesAreNotPublishedAgain(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.push("bad", "1", "backdoor")
	first := w.mustPublish(t, "bad:1")
	w.push("bad", "1", "another")
	w.mustPublish(t, "bad:1")
	w.registry.Tag("library/bad", "1", d) // the tag comes back
	again := w.mustPublish(t, "bad:1")
	req := control.RevokeRequest{Image: "bad:1", Digest: d.String(), Block: again.Height, Reason: "it has a backdoor"}
	resp, err := w.Revoke(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(w.Writer.Key())
	if err != nil {
		t.Fatal(err)
	}
	target := ledger.Target{Image: parseImage(t, "bad:1"), Digest: d, Block: again.Height}
	for what, b := range map[string]*control.Block{"the block": &resp.Block, "the digest": resp.Withdrawal} {
		if _, reason, err := ledger.VerifyWithdrawal(v, []byte(b.Entry), []byte(b.Proof), target); err != nil || reason != req.Reason {
			t.Errorf("withdrawal of %s: %q, %v", what, reason, err)
		}
	}
	if resp.Block.Height == resp.Withdrawal.Height || !slices.Equal(resp.Tags, []string{"docker.io/library/bad:1"}) {
		t.Errorf("revoked: %+v", resp)
	}
	for _, height := range []int64{first.Height, again.Height} {
		block, err := w.Writer.Entry(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		if by, err := w.Writer.RevokedBy(t.Context(), block); err != nil || by == nil {
			t.Errorf("block %d is revoked by %v, %v", height, by, err)
		}
	}
	size := w.Writer.Size()
	if second, err := w.Revoke(t.Context(), req); err != nil || second.Block.Height != resp.Block.Height || w.Writer.Size() != size {
		t.Errorf("revoked twice: %+v, %v", second, err)
	}
	if _, err := w.publish(t, "bad:1"); reasonOf(err) != control.ReasonRevoked {
		t.Errorf("published again: %v", err)
	}
	req.Block = 99
	if _, err := w.Revoke(t.Context(), req); reasonOf(err) != control.ReasonInvalidRequest {
		t.Errorf("a block that does not exist: %v", err)
	}
}

// A withdrawn digest gets no block under any tag, by any way, until it is
// restored: by an explicit request alone. It may be withdrawn before anybody
// has published it.
func TestWithdrawnDigestsComeBackByRestoreAlone(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"*"}})
	d := w.push("bad", "1", "backdoor")
	revoke := control.RevokeRequest{Image: "bad:1", Digest: d.String(), Block: -1, Reason: "it has a backdoor"}
	resp, err := w.Revoke(t.Context(), revoke)
	if err != nil || resp.Block.Height != resp.Withdrawal.Height {
		t.Fatalf("withdrawn in advance: %+v, %v", resp, err)
	}
	w.registry.Tag("library/bad", "2", d)
	for _, name := range []string{"bad:1", "bad:2", "registry-1.docker.io/library/bad:2"} {
		if _, err := w.publish(t, name); reasonOf(err) != control.ReasonRevoked || !strings.Contains(err.Error(), "it has a backdoor") {
			t.Errorf("published as %s: %v", name, err)
		}
	}
	err = w.Pull(within(t, time.Minute), parseImage(t, "bad:2"))
	if _, ok := errors.AsType[*ledger.WithdrawnError](err); !ok {
		t.Errorf("pulled: %v", err)
	}
	if _, err := w.Restore(t.Context(), control.RestoreRequest{Image: "bad:1", Digest: digest.FromString("other").String(), Reason: "no"}); reasonOf(err) != control.ReasonInvalidRequest {
		t.Errorf("restored what was not withdrawn: %v", err)
	}
	restore := control.RestoreRequest{Image: "bad:1", Digest: d.String(), Reason: "a false alarm"}
	restored, err := w.Restore(t.Context(), restore)
	if err != nil {
		t.Fatal(err)
	}
	block := w.mustPublish(t, "bad:2")
	if again, err := w.Restore(t.Context(), restore); err != nil || again.Block.Height != restored.Block.Height {
		t.Errorf("restored twice: %+v, %v", again, err)
	}
	e, err := w.Writer.Entry(t.Context(), block.Height)
	if err != nil {
		t.Fatal(err)
	}
	if by, err := w.Writer.RevokedBy(t.Context(), e); err != nil || by != nil {
		t.Errorf("the restored image is withdrawn by %+v, %v", by, err)
	}
	// Withdrawn again, it goes from all tags and from the index that has it.
	index := w.registry.AddIndex(w.registry.AddImage(linux, "bad", []byte("backdoor")), w.registry.AddImage(linux, "good", []byte("fine")))
	w.registry.Tag("library/bad", "both", index)
	w.mustPublish(t, "bad:both")
	platform := e.Artifact.Platforms[0].Digest
	resp, err = w.Revoke(t.Context(), control.RevokeRequest{Image: "bad:2", Digest: platform.String(), Block: -1, Reason: "it has a backdoor"})
	if err != nil || len(resp.Tags) != 0 || !slices.Equal(resp.Indexes, []string{"docker.io/library/bad:2", "docker.io/library/bad:both"}) {
		t.Errorf("a platform: %+v, %v", resp, err)
	}
}
