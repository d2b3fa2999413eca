package controllers

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A namespace has few of the places, a PyrsiaNode half of those; what is for
// withdrawals is taken by nothing else, and what is given back is there again.
func TestPlacesOfANamespace(t *testing.T) {
	t.Parallel()
	nodes := NewNodes(nil, nil, time.Now)
	fill := func(namespace, name string, why purpose) (taken []*visit) {
		n := node(v1alpha1.RolePublisher, name)
		n.Namespace, n.UID = namespace, types.UID(namespace+name)
		for {
			v, err := nodes.visit(n, why)
			if err != nil {
				if wait, _ := askAgain(err); !isBusy(err) || wait <= 0 {
					t.Fatalf("with all places taken: %v", err)
				}
				return taken
			}
			if taken = append(taken, v); len(taken) > artifactsAtOnce {
				t.Fatal("there is no bound")
			}
		}
	}
	want := func(what string, got []*visit, want int) {
		t.Helper()
		if len(got) != want {
			t.Errorf("%s: %d places, want %d", what, len(got), want)
		}
	}
	half := visits[toPublish].places / 2
	first := fill("a", "one", toPublish)
	want("a PyrsiaNode", first, half)
	want("the second one", fill("a", "two", toPublish), half)
	want("the third one", fill("a", "three", toPublish), 0)
	want("another namespace", fill("b", "one", toPublish), half)
	want("withdrawals", fill("a", "one", toWithdraw), visits[toWithdraw].places/2)
	for _, v := range first {
		v.end()
	}
	want("the third one, when the first has ended", fill("a", "three", toPublish), half)
	for _, v := range fill("c", "one", toPlan) {
		v.end()
	}
	for key := range nodes.visiting {
		if key.namespace == "c" {
			t.Errorf("%+v is remembered", key)
		}
	}
}

// What one namespace has is at most a quarter of the workers of a controller, and
// what one node is asked at the same time fits twice into its control port: the
// next one may bring a withdrawal.
func TestPlacesLeaveRoom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		workers  int
		purposes []purpose
	}{
		"artifact":         {artifactsAtOnce, []purpose{toPublish, toWithdraw, toLook}},
		"officialimageset": {setsAtOnce, []purpose{toPlan}},
		"pyrsianode":       {nodesAtOnce, []purpose{toPoll}},
		"receipt":          {receiptsAtOnce, []purpose{toReceive}},
	} {
		places := 0
		for _, why := range c.purposes {
			places += visits[why].places
		}
		if 4*places > c.workers {
			t.Errorf("%s: a namespace has %d places, and there are %d workers", name, places, c.workers)
		}
	}
	calls := 0
	for why, v := range visits {
		each := 1
		if purpose(why) == toPlan {
			each = resolveAtOnce
		}
		calls += v.places / 2 * each
	}
	if 2*calls > control.OperatorConnections {
		t.Errorf("%d calls to one node, which takes %d connections from the operator's address", calls, control.OperatorConnections)
	}
}

// A pod that does not answer is asked by one alone, less and less often, until it
// answers; calls that were made together and got no answer count once.
func TestSilentPodsAreAskedLessOften(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	l, began := new(line), now
	for range 3 { // together
		if !l.begin(now) {
			t.Fatal("one that answers is not asked")
		}
	}
	now = now.Add(30 * time.Second)
	for range 3 {
		l.noAnswer(began, now)
	}
	for n, wait := range []time.Duration{hangFirst, 2 * hangFirst, 4 * hangFirst, 8 * hangFirst, hangMax, hangMax} {
		if now = now.Add(wait - 1); l.begin(now) {
			t.Fatalf("after %d failures it is asked before %s are over", n+1, wait)
		}
		now = now.Add(1)
		if once, again := l.begin(now), l.begin(now); !once || again {
			t.Fatalf("after %d failures and %s it is not asked once", n+1, wait)
		}
		at := now
		now = now.Add(30 * time.Second)
		l.noAnswer(at, now)
	}
	if !l.since.Equal(began) {
		t.Errorf("it is silent since %s, not %s", l.since, began)
	}
	l.answered()
	for range 2 {
		if !l.begin(now) {
			t.Error("it answers, and is not asked as any other")
		}
	}
}
