package controllers

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// Both keys sign for a day at least, and until every mirror has seen the new one.
func TestKeysOverlap(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, second, other := newBook(t).key, newBook(t).key, newBook(t).key
	publisher := node(v1alpha1.RolePublisher, "publisher")
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
	mirror := func(newest string) v1alpha1.PyrsiaNode {
		m := node(v1alpha1.RoleMirror, "mirror")
		m.Status.Ledger = &v1alpha1.LedgerStatus{Key: first, NewestKey: newest, Checkpoint: "x"}
		return *m
	}
	young := node(v1alpha1.RoleMirror, "young")
	for name, tc := range map[string]struct {
		after   time.Duration
		mirrors []v1alpha1.PyrsiaNode
		want    bool
	}{
		"too early":                        {keyOverlap - time.Second, []v1alpha1.PyrsiaNode{mirror(second)}, false},
		"in time":                          {keyOverlap, []v1alpha1.PyrsiaNode{mirror(second)}, true},
		"a mirror that does not follow":    {30 * keyOverlap, []v1alpha1.PyrsiaNode{mirror(second), mirror(first)}, false},
		"a mirror of an earlier operator":  {30 * keyOverlap, []v1alpha1.PyrsiaNode{mirror("")}, false},
		"a mirror that has no ledger":      {keyOverlap, []v1alpha1.PyrsiaNode{*young}, true},
		"no mirror":                        {keyOverlap, nil, true},
		"a mirror that follows the thief":  {keyOverlap, []v1alpha1.PyrsiaNode{mirror(other)}, false},
		"another publisher, and no mirror": {keyOverlap, []v1alpha1.PyrsiaNode{*publisher}, true},
	} {
		if got := rotated(publisher, tc.mirrors, now.Add(tc.after), keyOverlap); got != tc.want {
			t.Errorf("%s: the old key is done: %v, want %v", name, got, tc.want)
		}
	}
	publisher.Status.Ledger.Key = second // it signs alone
	if rotated(publisher, nil, now.Add(keyOverlap), keyOverlap) {
		t.Error("the rotation is ended twice")
	}
}

// What somebody has looked at, or asked for, is no alarm; what comes later is one.
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
		n := node(v1alpha1.RoleMirror, "mirror")
		if !tc.until.IsZero() {
			n.Spec.AcknowledgedAt = &metav1.Time{Time: tc.until}
		}
		if got := unacknowledged(n, []control.Alarm{tc.alarm}, []string{"expected"}, now); (len(got) == 1) != tc.want {
			t.Errorf("%s: %+v, want it raised: %v", name, got, tc.want)
		}
	}
}

// A mirror whose pods have heard of two keys is handed the publisher's.
func TestDisputedMirrorIsHandedTheNewestKey(t *testing.T) {
	first, second := newBook(t).key, newBook(t).key
	for disputed, want := range map[bool]string{false: first, true: second} {
		n := node(v1alpha1.RoleMirror, "mirror")
		n.Spec.Network = &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
		n.Status.Ledger = &v1alpha1.LedgerStatus{Key: first, Checkpoint: "x"}
		if disputed {
			setDone(n, v1alpha1.ConditionLedgerKeyMisused, "LedgerKeyMisused", "x")
		}
		in := podInputs{ledgerKey: second}
		if err := keepLedger(n, &in); err != nil || in.ledgerKey != want || n.Status.Ledger.Key != want {
			t.Errorf("disputed %v: the pods get %s, and %s is in the status, %v; want %s", disputed, in.ledgerKey, n.Status.Ledger.Key, err, want)
		}
	}
}
