package node

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The operator takes a proof that does not fit its checkpoint for a second history:
// a ledger that grows must never give one.
func TestStatusIsOfOneMoment(t *testing.T) {
	t.Parallel()
	signing, _, vkey := signingFile(t)
	p := start(t, Config{Role: control.Publisher, SigningKeyFile: signing})
	verifier, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	add := func(ctx context.Context, i int) error {
		content := digest.FromString(fmt.Sprint(i))
		_, err := p.role.(*publisherRole).Writer.Append(ctx, &ledger.AddArtifact{
			Type: ledger.TypeAddArtifact, Version: 1, Artifact: fmt.Sprintf("docker.io/library/i%d:1", i), Digest: content,
			MediaType: "application/vnd.oci.image.index.v1+json", Size: 100, Pieces: content, Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
			Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: content, Config: content, Size: 7}},
		})
		return err
	}
	if err := add(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	head, ok := p.ledger.Head()
	if !ok {
		t.Fatal("no head after the first append")
	}
	grow, stop := context.WithCancel(t.Context())
	var appending sync.WaitGroup
	defer appending.Wait()
	defer stop()
	appending.Go(func() {
		for i := 1; grow.Err() == nil; i++ {
			if err := add(grow, i); err != nil && grow.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	for last, seen := "", head; seen.Tree.N < head.Tree.N+20; {
		s, err := p.Status(t.Context(), head.Tree.N)
		if err != nil {
			t.Fatal(err)
		}
		if s.Ledger.Checkpoint == last { // nearly all the time is spent in Status
			continue
		}
		last = s.Ledger.Checkpoint
		if seen, err = ledger.VerifyCheckpoint(verifier, []byte(last)); err != nil {
			t.Fatal(err)
		}
		if err := ledger.VerifyConsistency(head, seen, s.Ledger.Consistency); err != nil {
			t.Fatalf("%d blocks after %d: %v", seen.Tree.N, head.Tree.N, err)
		}
		if err := p.role.(*publisherRole).Writer.CheckFloor(t.Context(), head.Signed); err != nil {
			t.Fatal(err)
		}
	}
}
