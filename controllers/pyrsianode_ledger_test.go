package controllers

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// book is a small ledger that signs what it is told, honest or not.
type book struct {
	signer note.Signer
	skey   string
	key    string
	hashes []tlog.Hash
	size   int64
}

func newBook(t *testing.T) *book {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey("example.com/book")
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := ledger.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &book{signer: signer, skey: skey, key: vkey}
}

// fork is the same ledger with another history.
func (b *book) fork() *book { return &book{signer: b.signer, key: b.key} }

func (b *book) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, b.hashes[i])
	}
	return out, nil
}

func (b *book) add(t *testing.T, records ...string) *book {
	t.Helper()
	for _, r := range records {
		hashes, err := tlog.StoredHashes(b.size, []byte(r), b)
		if err != nil {
			t.Fatal(err)
		}
		b.hashes = append(b.hashes, hashes...)
		b.size++
	}
	return b
}

func (b *book) status(t *testing.T, since int64) control.LedgerStatus {
	t.Helper()
	root, err := tlog.TreeHash(b.size, b)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: torchwood.Checkpoint{Origin: b.signer.Name(), Tree: tlog.Tree{N: b.size, Hash: root}}.String()}, b.signer)
	if err != nil {
		t.Fatal(err)
	}
	out := control.LedgerStatus{Key: b.key, Checkpoint: string(signed)}
	if since > 0 && since < b.size {
		proof, err := tlog.ProveTree(b.size, since, b)
		if err != nil {
			t.Fatal(err)
		}
		out.Consistency = ledger.EncodeHashes(proof)
	}
	return out
}

// handOver records that another book's key follows, under both signatures.
func (b *book) handOver(t *testing.T, next *book) (*book, control.Rotation) {
	t.Helper()
	e := &ledger.RotateKey{Type: ledger.TypeRotateKey, Version: 1, Previous: b.key, Key: next.key, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	after := &book{signer: b.signer, skey: b.skey, key: b.key, hashes: slices.Clone(b.hashes), size: b.size}
	after.add(t, string(data))
	proof, err := tlog.ProveRecord(after.size, b.size, after)
	if err != nil {
		t.Fatal(err)
	}
	return after, control.Rotation{Entry: string(data), Proof: string(torchwood.FormatProof(b.size, proof, []byte(after.status(t, 0).Checkpoint)))}
}

func (b *book) checkpoint(t *testing.T) *ledger.Checkpoint {
	t.Helper()
	v, err := ledger.NewVerifier(b.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ledger.VerifyCheckpoint(v, []byte(b.status(t, 0).Checkpoint))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestJudge(t *testing.T) {
	honest := newBook(t).add(t, "a", "b")
	floor := honest.checkpoint(t)
	rolledBack := honest.fork().add(t, "a")
	forked := honest.fork().add(t, "a", "x", "c")
	empty := honest.fork()
	honest.add(t, "c", "d", "e")
	other := newBook(t).add(t, "a", "b", "c")

	next := newBook(t)
	rotated, rotation := honest.handOver(t, next)
	follows := func(b *book, size int64) control.LedgerStatus {
		s := b.status(t, size)
		s.Rotations = []control.Rotation{rotation}
		return s
	}
	grown := rotated.checkpoint(t)
	next.hashes, next.size = rotated.hashes, rotated.size
	next.add(t, "g")

	withKey := func(s control.LedgerStatus, key string) control.LedgerStatus { s.Key = key; return s }
	for name, tc := range map[string]struct {
		role   v1alpha1.Role
		pinned string
		floor  *ledger.Checkpoint
		got    control.LedgerStatus
		want   string // reason
		size   int64
	}{
		"first sight":                              {v1alpha1.RolePublisher, "", nil, honest.status(t, 0), "", 5},
		"an empty ledger":                          {v1alpha1.RolePublisher, "", nil, empty.status(t, 0), "", 0},
		"it grew":                                  {v1alpha1.RolePublisher, honest.key, floor, honest.status(t, 2), "", 5},
		"it grew, without proof":                   {v1alpha1.RolePublisher, honest.key, floor, honest.status(t, 0), reasonForked, 0},
		"two histories":                            {v1alpha1.RolePublisher, honest.key, floor, forked.status(t, 2), reasonForked, 0},
		"a publisher rolled back":                  {v1alpha1.RolePublisher, honest.key, floor, rolledBack.status(t, 2), reasonRolledBack, 0},
		"a publisher lost all":                     {v1alpha1.RolePublisher, honest.key, floor, control.LedgerStatus{Key: honest.key}, reasonRolledBack, 0},
		"a new mirror catches up":                  {v1alpha1.RoleMirror, honest.key, floor, rolledBack.status(t, 2), "", 1},
		"a new mirror has nothing":                 {v1alpha1.RoleMirror, honest.key, floor, control.LedgerStatus{Key: honest.key}, reasonNoCheckpoint, 0},
		"another key":                              {v1alpha1.RolePublisher, honest.key, floor, other.status(t, 2), reasonKeyChanged, 0},
		"another key's checkpoint":                 {v1alpha1.RolePublisher, honest.key, floor, withKey(other.status(t, 2), honest.key), reasonBadSignature, 0},
		"the next key, with its rotation":          {v1alpha1.RolePublisher, honest.key, grown, follows(next, grown.Tree.N), "", 7},
		"the next key, without":                    {v1alpha1.RolePublisher, honest.key, grown, next.status(t, grown.Tree.N), reasonKeyChanged, 0},
		"a mirror with the key before":             {v1alpha1.RoleMirror, next.key, nil, withKey(follows(next, 0), honest.key), "", 7},
		"a mirror that the next key does not sign": {v1alpha1.RoleMirror, next.key, nil, withKey(follows(honest, 0), honest.key), reasonBadSignature, 0},
		"no key":                             {v1alpha1.RolePublisher, honest.key, floor, withKey(honest.status(t, 2), ""), reasonBadSignature, 0},
		"a checkpoint that is far too large": {v1alpha1.RoleMirror, honest.key, floor, control.LedgerStatus{Key: honest.key, Checkpoint: strings.Repeat("x", 1<<20)}, reasonBadSignature, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := judge(tc.role, tc.pinned, tc.floor, &control.Status{PeerID: "12D3KooW", Ledger: tc.got})
			if got.reason != tc.want || got.size() != tc.size {
				t.Errorf("got reason %q (%s), size %d; want %q, %d", got.reason, got.message, got.size(), tc.want, tc.size)
			}
		})
	}
}

// A verified ledger whose node raises an alarm is not called verified.
func TestAlarmsAreJudged(t *testing.T) {
	b := newBook(t).add(t, "a")
	for kind, want := range map[control.AlarmKind]string{
		control.AlarmLedgerForked: reasonForked, control.AlarmLedgerRolledBack: reasonRolledBack,
		control.AlarmLedgerStale: reasonStale, "SomethingElse": "",
	} {
		got := judge(v1alpha1.RoleMirror, b.key, nil, &control.Status{PeerID: "12D3KooW", Ledger: b.status(t, 0),
			Alarms: []control.Alarm{{Kind: kind, Message: "<script>"}}})
		if got.reason != want || strings.Contains(got.message, "script") {
			t.Errorf("%s: reason %q (%s), want %q", kind, got.reason, got.message, want)
		}
	}
}

// A mirror that followed whoever has a retired key, and was then given the publisher's,
// has another history than what was verified of it: that is the end of the misuse, and
// no fork. What the retired key alone signs, or a publisher, takes nothing back.
func TestMirrorComesBackFromARetiredKey(t *testing.T) {
	b, next := newBook(t).add(t, "a"), newBook(t)
	misled := b.fork().add(t, "a", "x")
	after, rotation := b.handOver(t, next)
	next.hashes, next.size = after.hashes, after.size
	next.add(t, "c")
	for name, tc := range map[string]struct {
		role   v1alpha1.Role
		signer *book
		want   string
		key    string // in the status
	}{
		"a mirror, by the next key":              {v1alpha1.RoleMirror, next, "", next.key},
		"a mirror, by the key before":            {v1alpha1.RoleMirror, after.add(t, "c", "d"), reasonForked, b.key},
		"a mirror, by the next key, and again":   {v1alpha1.RoleMirror, next.fork().add(t, "z", "z", "z", "z"), reasonForked, next.key},
		"a publisher, which has no other ledger": {v1alpha1.RolePublisher, next, reasonForked, b.key},
	} {
		n := node(tc.role, "mirror")
		look := func(said control.LedgerStatus) report {
			t.Helper()
			floor, err := verifiedBefore(n)
			if err != nil {
				t.Fatal(err)
			}
			said.Rotations = []control.Rotation{rotation}
			got := judge(tc.role, pinnedKey(n, podInputs{ledgerKey: b.key}), floor, &control.Status{PeerID: "12D3KooW", Ledger: said})
			record(n, []report{got})
			return got
		}
		if got := look(misled.status(t, 0)); got.reason != "" {
			t.Fatalf("%s: at first %q: %s", name, got.reason, got.message)
		}
		if tc.key == next.key && tc.want != "" {
			look(next.status(t, 2))
		}
		if got := look(tc.signer.status(t, n.Status.Ledger.Size)); got.reason != tc.want || n.Status.Ledger.Key != tc.key {
			t.Errorf("%s: %q (%s), and the key is %s", name, got.reason, got.message, n.Status.Ledger.Key)
		}
		if tc.want == "" && n.Status.Ledger.Size != tc.signer.size {
			t.Errorf("%s: the floor is of %d blocks", name, n.Status.Ledger.Size)
		}
	}
}

// A key that was handed over is pinned from then on, with a checkpoint of its own.
func TestRecordFollowsARotation(t *testing.T) {
	b, next := newBook(t).add(t, "a"), newBook(t)
	n := node(v1alpha1.RolePublisher, "publisher")
	record(n, []report{judge(n.Spec.Role, "", nil, &control.Status{PeerID: "12D3KooW", Ledger: b.status(t, 0)})})
	after, rotation := b.handOver(t, next)
	record(n, []report{judge(n.Spec.Role, b.key, b.checkpoint(t), &control.Status{PeerID: "12D3KooW", Ledger: after.status(t, 1)})})
	floor, err := verifiedBefore(n)
	if err != nil {
		t.Fatal(err)
	}
	next.hashes, next.size = after.hashes, after.size
	said := next.status(t, 0)
	said.Rotations = []control.Rotation{rotation}
	record(n, []report{judge(n.Spec.Role, n.Status.Ledger.Key, floor, &control.Status{PeerID: "12D3KooW", Ledger: said})})
	if n.Status.Ledger.Key != next.key {
		t.Errorf("pinned is %s, want %s", n.Status.Ledger.Key, next.key)
	}
	if floor, err := verifiedBefore(n); err != nil || floor.Tree.N != 2 {
		t.Errorf("the floor under the new key: %+v, %v", floor, err)
	}
}

// What is recorded moves forward only, and only by what was verified.
func TestRecordKeepsTheFloor(t *testing.T) {
	b := newBook(t).add(t, "a", "b")
	n := node(v1alpha1.RolePublisher, "publisher")
	record(n, []report{judge(n.Spec.Role, "", nil, &control.Status{PeerID: "12D3KooW", Ledger: b.status(t, 0)})})
	if n.Status.Ledger == nil || n.Status.Ledger.Size != 2 || n.Status.Ledger.Key != b.key {
		t.Fatalf("status.ledger is %+v", n.Status.Ledger)
	}
	if want := "/dns/publisher.images.svc/tcp/4001/p2p/12D3KooW"; n.Status.Bootstrap[0] != want {
		t.Errorf("bootstrap %s, want %s", n.Status.Bootstrap[0], want)
	}
	before := n.DeepCopy()
	floor, err := verifiedBefore(n)
	if err != nil {
		t.Fatal(err)
	}
	forked := b.fork().add(t, "a", "x", "y")
	record(n, []report{judge(n.Spec.Role, b.key, floor, &control.Status{PeerID: "12D3KooX", Ledger: forked.status(t, 2)})})
	if n.Status.Ledger.Checkpoint != before.Status.Ledger.Checkpoint || n.Status.PeerID != before.Status.PeerID {
		t.Error("a forked ledger changed the status")
	}
}

func FuzzJudge(f *testing.F) {
	skey, vkey, err := ledger.GenerateKey("example.com/fuzz")
	if err != nil {
		f.Fatal(err)
	}
	signer, _, err := ledger.NewSigner(skey)
	if err != nil {
		f.Fatal(err)
	}
	b := (&book{signer: signer, key: vkey})
	f.Add([]byte(vkey), []byte("example.com/fuzz\n1\nAAAA\n\n— x y\n"), []byte("AAAA"))
	f.Fuzz(func(t *testing.T, key, checkpoint, hash []byte) {
		floor := b.checkpoint(t)
		got := judge(v1alpha1.RolePublisher, vkey, floor, &control.Status{
			PeerID: string(hash),
			Ledger: control.LedgerStatus{Key: string(key), Checkpoint: string(checkpoint), Consistency: []string{string(hash)}},
		})
		if got.reason == "" && !bytes.Contains(checkpoint, []byte("\n0\n")) {
			t.Errorf("a checkpoint that the key never signed is verified: %q", checkpoint)
		}
	})
}
