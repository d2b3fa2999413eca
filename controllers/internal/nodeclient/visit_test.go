package nodeclient

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A namespace has few of the places, a PyrsiaNode half of those; what is for
// withdrawals is taken by nothing else, and what is given back is there again.
func TestPlacesOfANamespace(t *testing.T) {
	t.Parallel()
	nodes := NewNodes(nil, nil, time.Now)
	fill := func(namespace, name string, why Purpose) (taken []*Visit) {
		n := fixtures.Node(v1alpha1.RolePublisher, name)
		n.Namespace, n.UID = namespace, types.UID(namespace+name)
		for {
			v, err := nodes.Visit(n, why)
			if err != nil {
				if wait, _ := AskAgain(err); !IsBusy(err) || wait <= 0 {
					t.Fatalf("with all places taken: %v", err)
				}
				return taken
			}
			if taken = append(taken, v); len(taken) > ArtifactsAtOnce {
				t.Fatal("there is no bound")
			}
		}
	}
	want := func(what string, got []*Visit, want int) {
		t.Helper()
		if len(got) != want {
			t.Errorf("%s: %d places, want %d", what, len(got), want)
		}
	}
	half := visits[ToPublish].places / 2
	first := fill("a", "one", ToPublish)
	want("a PyrsiaNode", first, half)
	want("the second one", fill("a", "two", ToPublish), half)
	want("the third one", fill("a", "three", ToPublish), 0)
	want("another namespace", fill("b", "one", ToPublish), half)
	want("withdrawals", fill("a", "one", ToWithdraw), visits[ToWithdraw].places/2)
	for _, v := range first {
		v.End()
	}
	want("the third one, when the first has ended", fill("a", "three", ToPublish), half)
	for _, v := range fill("c", "one", ToPlan) {
		v.End()
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
		purposes []Purpose
	}{
		"artifact":         {ArtifactsAtOnce, []Purpose{ToPublish, ToWithdraw, ToLook}},
		"officialimageset": {SetsAtOnce, []Purpose{ToPlan}},
		"pyrsianode":       {NodesAtOnce, []Purpose{ToPoll}},
		"receipt":          {ReceiptsAtOnce, []Purpose{ToReceive}},
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
		if Purpose(why) == ToPlan {
			each = ResolveAtOnce
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
