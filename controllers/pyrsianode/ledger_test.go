package pyrsianode

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func TestJudge(t *testing.T) {
	honest := fixtures.NewBook(t).Add(t, "a", "b")
	floor := honest.Checkpoint(t)
	rolledBack := honest.Fork().Add(t, "a")
	forked := honest.Fork().Add(t, "a", "x", "c")
	empty := honest.Fork()
	honest.Add(t, "c", "d", "e")
	other := fixtures.NewBook(t).Add(t, "a", "b", "c")

	next := fixtures.NewBook(t)
	rotated, rotation := honest.HandOver(t, next)
	follows := func(b *fixtures.Book, size int64) control.LedgerStatus {
		s := b.Status(t, size)
		s.Rotations = []control.Rotation{rotation}
		return s
	}
	grown := rotated.Checkpoint(t)
	next.Hashes, next.Size = rotated.Hashes, rotated.Size
	next.Add(t, "g")

	withKey := func(s control.LedgerStatus, key string) control.LedgerStatus { s.Key = key; return s }
	for name, tc := range map[string]struct {
		role   v1alpha1.Role
		pinned string
		floor  *ledger.Checkpoint
		got    control.LedgerStatus
		want   string // reason
		size   int64
	}{
		"first sight":                              {v1alpha1.RolePublisher, "", nil, honest.Status(t, 0), "", 5},
		"an empty ledger":                          {v1alpha1.RolePublisher, "", nil, empty.Status(t, 0), "", 0},
		"it grew":                                  {v1alpha1.RolePublisher, honest.Key, floor, honest.Status(t, 2), "", 5},
		"it grew, without proof":                   {v1alpha1.RolePublisher, honest.Key, floor, honest.Status(t, 0), v1alpha1.ConditionLedgerForked, 0},
		"two histories":                            {v1alpha1.RolePublisher, honest.Key, floor, forked.Status(t, 2), v1alpha1.ConditionLedgerForked, 0},
		"a publisher rolled back":                  {v1alpha1.RolePublisher, honest.Key, floor, rolledBack.Status(t, 2), v1alpha1.ConditionLedgerRolledBack, 0},
		"a publisher lost all":                     {v1alpha1.RolePublisher, honest.Key, floor, control.LedgerStatus{Key: honest.Key}, v1alpha1.ConditionLedgerRolledBack, 0},
		"a new mirror catches up":                  {v1alpha1.RoleMirror, honest.Key, floor, rolledBack.Status(t, 2), "", 1},
		"a new mirror has nothing":                 {v1alpha1.RoleMirror, honest.Key, floor, control.LedgerStatus{Key: honest.Key}, v1alpha1.ReasonNoCheckpoint, 0},
		"another key":                              {v1alpha1.RolePublisher, honest.Key, floor, other.Status(t, 2), v1alpha1.ReasonKeyChanged, 0},
		"another key's checkpoint":                 {v1alpha1.RolePublisher, honest.Key, floor, withKey(other.Status(t, 2), honest.Key), v1alpha1.ReasonBadSignature, 0},
		"the next key, with its rotation":          {v1alpha1.RolePublisher, honest.Key, grown, follows(next, grown.Tree.N), "", 7},
		"the next key, without":                    {v1alpha1.RolePublisher, honest.Key, grown, next.Status(t, grown.Tree.N), v1alpha1.ReasonKeyChanged, 0},
		"a mirror with the key before":             {v1alpha1.RoleMirror, next.Key, nil, withKey(follows(next, 0), honest.Key), "", 7},
		"a mirror that the next key does not sign": {v1alpha1.RoleMirror, next.Key, nil, withKey(follows(honest, 0), honest.Key), v1alpha1.ReasonBadSignature, 0},
		"no key":                             {v1alpha1.RolePublisher, honest.Key, floor, withKey(honest.Status(t, 2), ""), v1alpha1.ReasonBadSignature, 0},
		"a checkpoint that is far too large": {v1alpha1.RoleMirror, honest.Key, floor, control.LedgerStatus{Key: honest.Key, Checkpoint: strings.Repeat("x", 1<<20)}, v1alpha1.ReasonBadSignature, 0},
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
	b := fixtures.NewBook(t).Add(t, "a")
	for kind, want := range map[control.AlarmKind]string{
		control.AlarmLedgerForked: v1alpha1.ConditionLedgerForked, control.AlarmLedgerRolledBack: v1alpha1.ConditionLedgerRolledBack,
		control.AlarmLedgerStale: v1alpha1.ConditionLedgerStale, "SomethingElse": "",
	} {
		got := judge(v1alpha1.RoleMirror, b.Key, nil, &control.Status{PeerID: "12D3KooW", Ledger: b.Status(t, 0),
			Alarms: []control.Alarm{{Kind: kind, Message: "<script>"}}})
		if got.reason != want || strings.Contains(got.message, "script") {
			t.Errorf("%s: reason %q (%s), want %q", kind, got.reason, got.message, want)
		}
	}
}

// A mirror that followed the holder of a retired key, and was then given the
// publisher's, has another history than what was verified of it: that is the end of the
// misuse, not a fork. What the retired key alone signs, or a publisher, takes nothing
// back.
func TestMirrorComesBackFromARetiredKey(t *testing.T) {
	b, next := fixtures.NewBook(t).Add(t, "a"), fixtures.NewBook(t)
	misled := b.Fork().Add(t, "a", "x")
	after, rotation := b.HandOver(t, next)
	next.Hashes, next.Size = after.Hashes, after.Size
	next.Add(t, "c")
	for name, tc := range map[string]struct {
		role   v1alpha1.Role
		signer *fixtures.Book
		want   string
		key    string // in the status
	}{
		"a mirror, by the next key":              {v1alpha1.RoleMirror, next, "", next.Key},
		"a mirror, by the key before":            {v1alpha1.RoleMirror, after.Add(t, "c", "d"), v1alpha1.ConditionLedgerForked, b.Key},
		"a mirror, by the next key, and again":   {v1alpha1.RoleMirror, next.Fork().Add(t, "z", "z", "z", "z"), v1alpha1.ConditionLedgerForked, next.Key},
		"a publisher, which has no other ledger": {v1alpha1.RolePublisher, next, v1alpha1.ConditionLedgerForked, b.Key},
	} {
		n := fixtures.Node(tc.role, "mirror")
		look := func(said control.LedgerStatus) report {
			t.Helper()
			floor, err := verifiedBefore(n)
			if err != nil {
				t.Fatal(err)
			}
			said.Rotations = []control.Rotation{rotation}
			got := judge(tc.role, pinnedKey(n, desired.Inputs{LedgerKey: b.Key}), floor, &control.Status{PeerID: "12D3KooW", Ledger: said})
			record(n, []report{got})
			return got
		}
		if got := look(misled.Status(t, 0)); got.reason != "" {
			t.Fatalf("%s: at first %q: %s", name, got.reason, got.message)
		}
		if tc.key == next.Key && tc.want != "" {
			look(next.Status(t, 2))
		}
		if got := look(tc.signer.Status(t, n.Status.Ledger.Size)); got.reason != tc.want || n.Status.Ledger.Key != tc.key {
			t.Errorf("%s: %q (%s), and the key is %s", name, got.reason, got.message, n.Status.Ledger.Key)
		}
		if tc.want == "" && n.Status.Ledger.Size != tc.signer.Size {
			t.Errorf("%s: the floor is of %d blocks", name, n.Status.Ledger.Size)
		}
	}
}

// A key that was handed over is pinned from then on, with a checkpoint of its own.
func TestRecordFollowsARotation(t *testing.T) {
	b, next := fixtures.NewBook(t).Add(t, "a"), fixtures.NewBook(t)
	n := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	record(n, []report{judge(n.Spec.Role, "", nil, &control.Status{PeerID: "12D3KooW", Ledger: b.Status(t, 0)})})
	after, rotation := b.HandOver(t, next)
	record(n, []report{judge(n.Spec.Role, b.Key, b.Checkpoint(t), &control.Status{PeerID: "12D3KooW", Ledger: after.Status(t, 1)})})
	floor, err := verifiedBefore(n)
	if err != nil {
		t.Fatal(err)
	}
	next.Hashes, next.Size = after.Hashes, after.Size
	said := next.Status(t, 0)
	said.Rotations = []control.Rotation{rotation}
	record(n, []report{judge(n.Spec.Role, n.Status.Ledger.Key, floor, &control.Status{PeerID: "12D3KooW", Ledger: said})})
	if n.Status.Ledger.Key != next.Key {
		t.Errorf("pinned is %s, want %s", n.Status.Ledger.Key, next.Key)
	}
	if floor, err := verifiedBefore(n); err != nil || floor.Tree.N != 2 {
		t.Errorf("the floor under the new key: %+v, %v", floor, err)
	}
}

// What is recorded moves forward only, and only by what was verified.
func TestRecordKeepsTheFloor(t *testing.T) {
	b := fixtures.NewBook(t).Add(t, "a", "b")
	n := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	record(n, []report{judge(n.Spec.Role, "", nil, &control.Status{PeerID: "12D3KooW", Ledger: b.Status(t, 0)})})
	if n.Status.Ledger == nil || n.Status.Ledger.Size != 2 || n.Status.Ledger.Key != b.Key {
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
	forked := b.Fork().Add(t, "a", "x", "y")
	record(n, []report{judge(n.Spec.Role, b.Key, floor, &control.Status{PeerID: "12D3KooX", Ledger: forked.Status(t, 2)})})
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
	b := (&fixtures.Book{Signer: signer, Key: vkey})
	f.Add([]byte(vkey), []byte("example.com/fuzz\n1\nAAAA\n\n— x y\n"), []byte("AAAA"))
	f.Fuzz(func(t *testing.T, key, checkpoint, hash []byte) {
		floor := b.Checkpoint(t)
		got := judge(v1alpha1.RolePublisher, vkey, floor, &control.Status{
			PeerID: string(hash),
			Ledger: control.LedgerStatus{Key: string(key), Checkpoint: string(checkpoint), Consistency: []string{string(hash)}},
		})
		if got.reason == "" && !bytes.Contains(checkpoint, []byte("\n0\n")) {
			t.Errorf("a checkpoint that the key never signed is verified: %q", checkpoint)
		}
	})
}
