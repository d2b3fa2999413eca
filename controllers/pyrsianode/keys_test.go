package pyrsianode

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// Secrets that pods may lack are written again when that is due, not when the
// node happens to be looked at next.
func TestSecretsAreWrittenAgainWhenDue(t *testing.T) {
	const every = time.Minute
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ready := metav1.Condition{Type: v1alpha1.ConditionWorkloadReady, Status: metav1.ConditionTrue, Reason: "PodsReady"}
	notReady := metav1.Condition{Type: v1alpha1.ConditionWorkloadReady, Status: metav1.ConditionFalse, Reason: "PodsNotReady"}
	silent := metav1.Condition{Type: v1alpha1.ConditionLedgerVerified, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNodeUnreachable}
	tests := map[string]struct {
		conditions []metav1.Condition
		noPods     bool
		written    time.Duration // ago; 0: not by this process
		wantDue    bool
		wantAgain  time.Duration // 0: not by the clock
	}{
		"ready, and answers":          {conditions: []metav1.Condition{ready}, written: time.Hour},
		"just written, not ready":     {conditions: []metav1.Condition{notReady}, written: time.Second, wantAgain: 59 * time.Second},
		"just written, does not tell": {conditions: []metav1.Condition{ready, silent}, written: 15 * time.Second, wantAgain: 45 * time.Second},
		"almost due":                  {conditions: []metav1.Condition{notReady}, written: every - time.Millisecond, wantAgain: pollBusy},
		"due":                         {conditions: []metav1.Condition{notReady}, written: every, wantDue: true, wantAgain: pollBusy},
		"long due":                    {conditions: []metav1.Condition{ready, silent}, written: time.Hour, wantDue: true, wantAgain: pollBusy},
		"written before a restart":    {conditions: []metav1.Condition{notReady}, wantDue: true, wantAgain: pollBusy},
		"no pod yet":                  {conditions: []metav1.Condition{notReady}, noPods: true, written: every / 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{Config: Config{KeysEvery: every, Now: func() time.Time { return now }}}
			n := &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{UID: "a"}}
			if !tt.noPods {
				n.Status.Nodes = &v1alpha1.NodeCounts{Desired: 1}
			}
			if tt.written > 0 {
				r.keysApplied.Store(client.ObjectKeyFromObject(n), keysWritten{n.UID, now.Add(-tt.written)})
			}
			status.SetDone(n, v1alpha1.ConditionKeysReady, "Applied", "done")
			for _, c := range tt.conditions {
				meta.SetStatusCondition(n.Conditions(), c)
			}
			if got := r.keysDue(n, "done"); got != tt.wantDue {
				t.Errorf("due: %t, want %t", got, tt.wantDue)
			}
			if got, err := r.awaitKeys(t.Context(), n); err != nil || got != tt.wantAgain {
				t.Errorf("again after %s (%v), want %s", got, err, tt.wantAgain)
			}
		})
	}
}

// What is remembered of a PyrsiaNode goes with it, also when nothing holds its deletion.
func TestKeysOfWhatIsGoneAreForgotten(t *testing.T) {
	t.Parallel()
	c, n := fixtures.Client(t), fixtures.Node(v1alpha1.RolePublisher, "publisher") // it is not there any more
	r := New(Config{Client: c, Live: c, Now: time.Now})
	r.noteKeys(n)
	if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(n)}); err != nil {
		t.Fatal(err)
	}
	r.keysApplied.Range(func(key, _ any) bool {
		t.Errorf("%v is remembered for ever", key)
		return true
	})
}
