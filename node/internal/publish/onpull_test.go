package publish

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func TestPullPublishesOnceHoweverManyAsk(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"app:*"}, PerHour: 2})
	for i := range 3 {
		w.push("app", fmt.Sprint(i), fmt.Sprint("layer ", i))
	}
	w.push("other", "1", "other")
	together(20, func() {
		if err := w.Pull(within(t, time.Minute), parseImage(t, "app:0")); err != nil {
			t.Error(err)
		}
	})
	if c := w.registry.Counts(); c.Blobs != 2 || w.Writer.Size() != 1 {
		t.Errorf("%d blocks, counts %+v: want one block and one fetch of each blob", w.Writer.Size(), c)
	}
	if err := w.Pull(t.Context(), parseImage(t, "other:1")); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("an image that is not allowed: %v", err)
	}
	if err := w.Pull(t.Context(), parseImage(t, "app:1")); err != nil {
		t.Fatal(err)
	}
	err := w.Pull(t.Context(), parseImage(t, "app:2"))
	if r, ok := errors.AsType[*control.Error](err); !ok || r.Reason != control.ReasonBusy || r.RetryAfterSeconds < 3000 {
		t.Errorf("the third image in an hour: %v", err)
	}
	if err := w.Pull(t.Context(), parseImage(t, "app:missing")); err == nil {
		t.Error("an image that does not exist was published")
	}
}

// Requests for images that do not exist, or cannot be published, use up no
// budget and do not reach the upstream again and again.
func TestPullsThatPublishNothingDoNotCount(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"app:*", "broken:*"}, PerHour: 2})
	w.push("app", "1", "layer")
	w.push("broken", "1", "lost layer")
	var asked, lost atomic.Int64
	w.registry.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/missing") {
			asked.Add(1)
		}
		if strings.Contains(r.URL.Path, "/broken/blobs/") {
			lost.Add(1)
			http.Error(rw, "{}", http.StatusNotFound)
			return true
		}
		return false
	}
	for i := range 20 {
		if err := w.Pull(within(t, time.Minute), parseImage(t, fmt.Sprint("app:missing", i%4))); err == nil {
			t.Fatal("an image that does not exist was published")
		}
	}
	if n := asked.Load(); n > 8 {
		t.Errorf("the upstream was asked %d times for 4 images that it does not have", n)
	}
	for range 3 {
		if err := w.Pull(within(t, time.Minute), parseImage(t, "broken:1")); err == nil {
			t.Fatal("an image without its layers was published")
		}
	}
	if lost.Load() == 0 {
		t.Fatal("the broken image was not tried")
	}
	if err := w.Pull(within(t, time.Minute), parseImage(t, "app:1")); err != nil || w.Writer.Size() != 1 {
		t.Errorf("an honest pull after that: %v, %d blocks", err, w.Writer.Size())
	}
}

// A client that has waited long enough is told to retry, and the work goes on.
func TestPullGoesOnWithoutTheClient(t *testing.T) {
	w := newEnv(t, OnPull{Allow: []string{"slow:*"}})
	w.push("slow", "1", "slow layer")
	release := make(chan struct{})
	w.registry.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-release
		}
		return false
	}
	err := w.Pull(within(t, 300*time.Millisecond), parseImage(t, "slow:1"))
	if r, ok := errors.AsType[*control.Error](err); !ok || r.Reason != control.ReasonBusy || r.RetryAfterSeconds == 0 {
		t.Errorf("the client that left: %v", err)
	}
	close(release)
	if err := w.Pull(within(t, time.Minute), parseImage(t, "slow:1")); err != nil || w.Writer.Size() != 1 {
		t.Errorf("the next one: %v, %d blocks", err, w.Writer.Size())
	}
}
