package replica

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
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

// signed signs a checkpoint as a publisher with p's key could at any time.
func (p *publisher) signed(t *testing.T, origin string, tree tlog.Tree, at time.Time) []byte {
	t.Helper()
	text := torchwood.Checkpoint{Origin: origin, Tree: tree}.String()
	signer, _, err := ledger.NewSigner(p.skey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := base64.StdEncoding.DecodeString(strings.SplitN(p.skey, "+", 5)[4])
	private := ed25519.NewKeyFromSeed(data[1:])
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	clock, err := torchwood.NewCosignatureSigner(v.Origin(), private)
	if err != nil {
		t.Fatal(err)
	}
	line := binary.BigEndian.AppendUint32(nil, clock.KeyHash())
	line = binary.BigEndian.AppendUint64(line, uint64(at.Unix()))
	line = append(line, ed25519.Sign(private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at.Unix(), text))...)
	return fmt.Appendf(signed, "— %s %s\n", v.Origin(), base64.StdEncoding.EncodeToString(line))
}

// withCheckpoint serves another checkpoint of a ledger.
func withCheckpoint(t *testing.T, l *Ledger, signed []byte) *client.Client {
	return altered(t, l, func(path string, b []byte) []byte {
		if path == "/checkpoint" {
			return signed
		}
		return b
	})
}

func TestCheckpointsThatAreNotTheLedgersAreRefused(t *testing.T) {
	t.Parallel()
	p, stranger := newPublisher(t), newPublisher(t)
	p.mustAppend(t, alpine, "one")
	p.mustAppend(t, alpine, "two")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	head, _ := f.Head()
	now := time.Now()
	other := tlog.Hash{1}
	const origin = "ledger.example/test"
	for _, c := range []struct {
		name   string
		signed []byte
		kind   ledger.EvidenceKind
	}{
		{"another key's", stranger.signed(t, origin, tlog.Tree{N: 3, Hash: other}, now), ledger.EvidenceBadSignature},
		{"another origin's, by this key", p.signed(t, "ledger.example/other", head.Tree, now), ledger.EvidenceBadSignature},
		{"not a checkpoint", []byte("hello\n"), ledger.EvidenceBadSignature},
		{"a forged time", bytes.Replace(p.signed(t, origin, head.Tree, now), []byte("— ledger.example/test "), []byte("— ledger.example/test A"), 2), ledger.EvidenceBadSignature},
		{"a fork at the same size", p.signed(t, origin, tlog.Tree{N: 2, Hash: other}, now), ledger.EvidenceFork},
		{"a fork at a smaller size", p.signed(t, origin, tlog.Tree{N: 1, Hash: other}, now), ledger.EvidenceFork},
		{"a ledger that nobody has", p.signed(t, origin, tlog.Tree{N: 1 << 40, Hash: other}, now), ledger.EvidenceBadData},
	} {
		t.Run(c.name, func(t *testing.T) {
			hostile := withCheckpoint(t, p.Ledger, c.signed)
			if c.name == "a ledger that nobody has" {
				// Its tiles would be missing: no answer is not held against a peer. Wrong ones are.
				hostile = altered(t, p.Ledger, func(path string, b []byte) []byte {
					if path == "/checkpoint" {
						return c.signed
					}
					return make([]byte, 8192)
				})
			}
			mustRefuse(t, f, hostile, c.kind, p)
		})
	}
}

// An old checkpoint is what an honest peer that is behind has: it changes
// nothing and is not evidence.
func TestReplayedCheckpointIsIgnored(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	old, _ := p.Head()
	p.mustAppend(t, alpine, "two")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	before, _ := f.Head()
	if grown, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, old.Signed)); err != nil || grown {
		t.Errorf("an old checkpoint: grown %v, %v", grown, err)
	}
	if after, _ := f.Head(); after.Tree != before.Tree || !after.Time.Equal(before.Time) {
		t.Errorf("an old checkpoint changed the head to %+v", after)
	}
	if evidence, err := f.Evidence(); err != nil || len(evidence) != 0 {
		t.Errorf("evidence %v, %v, want none", evidence, err)
	}
}

// The same ledger, signed again later, is how a mirror knows that the
// publisher lives; an earlier signature takes nothing back.
func TestNewerSignatureIsKept(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	head, _ := f.Head()
	later := head.Time.Add(time.Minute)
	signed := p.signed(t, head.Origin, head.Tree, later)
	if _, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, signed)); err != nil {
		t.Fatal(err)
	}
	mustFollow(t, f, p) // the publisher's own is earlier
	if got, _ := f.Head(); !got.Time.Equal(later) {
		t.Errorf("signed at %s, want %s", got.Time, later)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFollower(t.Context(), f.dir.path, p.vkey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, _ := again.Head(); !got.Time.Equal(later) {
		t.Errorf("after a restart signed at %s, want %s", got.Time, later)
	}
}
