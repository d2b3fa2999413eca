package pyrsianode

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// Both keys sign for a day at least, and until every mirror has seen the new one.
func TestKeysOverlap(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, second, other := fixtures.NewBook(t).Key, fixtures.NewBook(t).Key, fixtures.NewBook(t).Key
	publisher := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	publisher.Spec.Publisher = &v1alpha1.Publisher{KeyGeneration: 2}
	publisher.Status.KeyGeneration = 1
	publisher.Status.Ledger = &v1alpha1.LedgerStatus{Key: first, NewestKey: first}
	recordRotation(publisher, now)
	if publisher.Status.KeyRotation != nil {
		t.Fatal("a rotation is recorded before the ledger says so")
	}
	publisher.Status.Ledger.NewestKey = second
	recordRotation(publisher, now)
	recordRotation(publisher, now.Add(time.Hour))
	if r := publisher.Status.KeyRotation; r == nil || r.Key != second || !r.RecordedAt.Time.Equal(now) {
		t.Fatalf("the rotation is recorded as %+v", r)
	}
	mirror := func(newest string, conditions ...string) v1alpha1.PyrsiaNode {
		m := fixtures.Node(v1alpha1.RoleMirror, "mirror")
		m.Status.Ledger = &v1alpha1.LedgerStatus{Key: first, NewestKey: newest, Checkpoint: "x"}
		for _, c := range conditions {
			status.SetDone(m, c, c, "x")
		}
		return *m
	}
	young := fixtures.Node(v1alpha1.RoleMirror, "young")
	foreign := mirror(first)
	foreign.Namespace = "foreign"
	for name, tc := range map[string]struct {
		after   time.Duration
		mirrors []v1alpha1.PyrsiaNode
		want    bool
	}{
		"too early":                         {keyOverlap - time.Second, []v1alpha1.PyrsiaNode{mirror(second)}, false},
		"in time":                           {keyOverlap, []v1alpha1.PyrsiaNode{mirror(second)}, true},
		"a mirror that does not follow":     {maxOverlaps*keyOverlap - time.Second, []v1alpha1.PyrsiaNode{mirror(second), mirror(first)}, false},
		"one that does not follow for long": {maxOverlaps * keyOverlap, []v1alpha1.PyrsiaNode{mirror(second), mirror(first)}, true},
		"a mirror of an earlier operator":   {2 * keyOverlap, []v1alpha1.PyrsiaNode{mirror("")}, false},
		"a mirror that has no ledger":       {keyOverlap, []v1alpha1.PyrsiaNode{*young}, true},
		"no mirror":                         {keyOverlap, nil, true},
		"a mirror that follows the thief":   {keyOverlap, []v1alpha1.PyrsiaNode{mirror(other)}, false},
		"a mirror of another namespace":     {keyOverlap, []v1alpha1.PyrsiaNode{foreign}, true},
		"a mirror with a forked ledger":     {keyOverlap, []v1alpha1.PyrsiaNode{mirror(first, v1alpha1.ConditionLedgerForked)}, true},
		"a mirror that a thief talks to":    {keyOverlap, []v1alpha1.PyrsiaNode{mirror(first, v1alpha1.ConditionLedgerKeyMisused)}, true},
		"another publisher, and no mirror":  {keyOverlap, []v1alpha1.PyrsiaNode{*publisher}, true},
	} {
		if got := rotated(publisher, left(publisher, tc.mirrors), now.Add(tc.after), keyOverlap); got != tc.want {
			t.Errorf("%s: the old key is done: %v, want %v", name, got, tc.want)
		}
	}
	names := left(publisher, []v1alpha1.PyrsiaNode{mirror(first), mirror(second)})
	for _, both := range []bool{true, false} {
		if got := tellOverlap(publisher.Status.KeyRotation, both, names, keyOverlap); !strings.Contains(got, "do not follow the new key: mirror") {
			t.Errorf("it is not said which mirror does not follow: %s", got)
		}
	}
	publisher.Status.Ledger.Key = second // it signs alone
	if rotated(publisher, nil, now.Add(keyOverlap), keyOverlap) {
		t.Error("the rotation is ended twice")
	}
}

// What was acknowledged or asked for raises no alarm; what comes later does.
func TestAlarmsAreAcknowledged(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	seen := now.Add(-time.Hour)
	for name, tc := range map[string]struct {
		until time.Time // zero: never
		alarm control.Alarm
		want  bool // it is raised
	}{
		"nobody has looked":            {time.Time{}, control.Alarm{Kind: control.AlarmLedgerForked, Since: seen}, true},
		"somebody has looked":          {seen, control.Alarm{Kind: control.AlarmLedgerForked, Since: seen}, false},
		"before it came":               {seen.Add(-time.Second), control.Alarm{Kind: control.AlarmLedgerRolledBack, Since: seen}, true},
		"an alarm that ends by itself": {now, control.Alarm{Kind: control.AlarmLedgerStale}, true},
		"a time that has not come":     {now.Add(24 * time.Hour), control.Alarm{Kind: control.AlarmLedgerForked, Since: now.Add(time.Minute)}, true},
		"an expected key":              {time.Time{}, control.Alarm{Kind: control.AlarmLedgerKeyChanged, Since: seen, Keys: []string{"expected"}}, false},
		"an unknown key":               {time.Time{}, control.Alarm{Kind: control.AlarmLedgerKeyChanged, Since: seen, Keys: []string{"expected", "unknown"}}, true},
		"an unknown key, acknowledged": {now, control.Alarm{Kind: control.AlarmLedgerKeyChanged, Since: seen, Keys: []string{"unknown"}}, false},
		"a key that is misused":        {time.Time{}, control.Alarm{Kind: control.AlarmLedgerKeyMisused, Since: seen, Keys: []string{"expected"}}, true},
	} {
		n := fixtures.Node(v1alpha1.RoleMirror, "mirror")
		if !tc.until.IsZero() {
			n.Spec.AcknowledgedAt = &metav1.Time{Time: tc.until}
		}
		if got := unacknowledged(n, []control.Alarm{tc.alarm}, []string{"expected"}, now); (len(got) == 1) != tc.want {
			t.Errorf("%s: %+v, want it raised: %v", name, got, tc.want)
		}
	}
}

// Pods are started with the newest key, be it that the publisher or that they
// themselves have verified it, and also while the key before signs. What was verified
// is kept, unless the pods have heard of two keys.
func TestPodsAreHandedTheNewestKey(t *testing.T) {
	first, second := fixtures.NewBook(t).Key, fixtures.NewBook(t).Key
	for name, tc := range map[string]struct {
		published, verified string // newest keys: of the publisher, and of the mirror
		disputed            bool
		want, status        string
	}{
		"before a rotation":               {first, first, false, first, first},
		"the publisher has handed over":   {second, first, false, second, first},
		"so have the pods seen":           {second, second, false, second, first},
		"the publisher is behind":         {first, second, false, second, first},
		"of an earlier operator":          {first, "", false, first, first},
		"the pods have heard of two keys": {second, first, true, second, second},
	} {
		n := fixtures.Node(v1alpha1.RoleMirror, "mirror")
		n.Spec.Network = &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
		n.Status.Ledger = &v1alpha1.LedgerStatus{Key: first, NewestKey: tc.verified, Checkpoint: "x"}
		if tc.disputed {
			status.SetDone(n, v1alpha1.ConditionLedgerKeyMisused, "LedgerKeyMisused", "x")
		}
		in := desired.Inputs{LedgerKey: tc.published}
		if err := keepLedger(n, &in); err != nil || in.LedgerKey != tc.want || n.Status.Ledger.Key != tc.status {
			t.Errorf("%s: the pods get %s, and %s is in the status, %v; want %s and %s", name, in.LedgerKey, n.Status.Ledger.Key, err, tc.want, tc.status)
		}
	}
}

// A pod that was started with the newest key, and has no ledger yet, waits: its key
// is not taken for one that never got the ledger.
func TestNewPodWithTheNewestKeyWaits(t *testing.T) {
	b, next := fixtures.NewBook(t).Add(t, "a"), fixtures.NewBook(t)
	got := judge(v1alpha1.RoleMirror, b.Key, b.Checkpoint(t), &control.Status{PeerID: "12D3KooW", Ledger: control.LedgerStatus{Key: next.Key}})
	if got.reason != v1alpha1.ReasonNoCheckpoint {
		t.Errorf("a new pod is %q: %s", got.reason, got.message)
	}
}

// A key that a publisher of one namespace has asked for is still an alarm to
// mirrors of another: a thief of their publisher's key could ask for any.
func TestKeysAreExpectedInTheirNamespaceAlone(t *testing.T) {
	t.Parallel()
	var publishers []client.Object
	for _, ns := range []string{"ours", "theirs"} {
		p := fixtures.Node(v1alpha1.RolePublisher, "publisher")
		p.Namespace, p.Status.KeyRotation = ns, &v1alpha1.KeyRotation{Key: "key of " + ns, RecordedAt: metav1.Now()}
		publishers = append(publishers, p)
	}
	mirror := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	mirror.Namespace = "ours"
	keys, err := (&Reconciler{Config: Config{Client: fixtures.Client(t, publishers...)}}).expectedKeys(t.Context(), mirror)
	if err != nil || len(keys) != 1 || keys[0] != "key of ours" {
		t.Errorf("%q are expected, %v", keys, err)
	}
}

// A mirror that is pinned to the key before a rotation keeps what was verified
// under the next one, from one look to the next.
func TestMirrorOfAnEarlierKeyKeepsTheFloor(t *testing.T) {
	b, next := fixtures.NewBook(t).Add(t, "a"), fixtures.NewBook(t)
	after, rotation := b.HandOver(t, next)
	next.Hashes, next.Size = after.Hashes, after.Size
	said := next.Add(t, "c").Status(t, 0)
	said.Key, said.Rotations = b.Key, []control.Rotation{rotation} // it says what it was given

	n := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	n.Spec.Network = &v1alpha1.Network{LedgerKey: b.Key}
	for look := range 3 {
		in := desired.Inputs{LedgerKey: b.Key}
		if err := keepLedger(n, &in); err != nil || in.LedgerKey != b.Key {
			t.Fatalf("look %d: the pods get %s, %v", look, in.LedgerKey, err)
		}
		floor, err := verifiedBefore(n)
		if err != nil {
			t.Fatal(err)
		}
		if look > 0 && (floor == nil || floor.Tree.N != 3) {
			t.Fatalf("look %d: the floor is %+v", look, floor)
		}
		record(n, []report{judge(n.Spec.Role, pinnedKey(n, in), floor, &control.Status{PeerID: "12D3KooW", Ledger: said})})
		if n.Status.Ledger == nil || n.Status.Ledger.Key != next.Key || n.Status.Ledger.Size != 3 {
			t.Fatalf("look %d: status.ledger is %+v", look, n.Status.Ledger)
		}
	}
	older := b.Status(t, 0) // what the first key signed is older
	if got := judge(n.Spec.Role, pinnedKey(n, desired.Inputs{LedgerKey: b.Key}), nil, &control.Status{Ledger: older}); got.reason != v1alpha1.ReasonKeyChanged {
		t.Errorf("a ledger that was not handed over is %q", got.reason)
	}
}
