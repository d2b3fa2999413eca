package replica

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// A log may have 16 witnesses whose signatures take 5 kB each (c2sp.org/signed-note):
// a follower takes such a checkpoint. It keeps and passes on what the ledger's own
// keys signed: the signers of the rest are unknown.
func TestCheckpointWithManyLargeSignatures(t *testing.T) {
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	head, _ := p.Head()
	var witnesses strings.Builder
	for i := range 16 {
		fmt.Fprintf(&witnesses, "— witness%d.example %s\n", i, base64.StdEncoding.EncodeToString(make([]byte, 4+3750)))
	}
	signed := append(head.Signed[:len(head.Signed):len(head.Signed)], witnesses.String()...)
	if len(signed) < 80_000 {
		t.Fatalf("the checkpoint has only %d bytes", len(signed))
	}
	f := newFollower(t, p.vkey)
	if grown, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, signed)); err != nil || !grown {
		t.Fatalf("grown %v, %v", grown, err)
	}
	if got, _ := f.Head(); string(got.Signed) != string(head.Signed) {
		t.Errorf("the head is not what the ledger's key signed:\n%s", got.Signed)
	}
}
