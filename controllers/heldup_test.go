package controllers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// crowd makes many Artifacts of a publisher, which go when the test ends.
func (c *cluster) crowd(t *testing.T, ns string, n int, image, digest string) {
	t.Helper()
	t.Cleanup(func() { // the next tests have no use for them
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.DeleteAllOf(ctx, &v1alpha1.Artifact{}, client.InNamespace(ns))
	})
	var group errgroup.Group
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			return c.Create(t.Context(), fixtures.Artifact(ns, fmt.Sprintf("crowd-%d", i), fmt.Sprintf("%s%d", image, i), digest))
		})
	}
	must(t, group.Wait())
}

// published makes a publisher in a namespace of its own, and an Artifact that it
// has published.
func (c *cluster) published(t *testing.T) (up *upstream, art *v1alpha1.Artifact) {
	t.Helper()
	up = newUpstream(t)
	ns := c.namespace(t)
	c.aPublisher(t, ns, up.URL)
	art = fixtures.Artifact(ns, "app", "docker.io/library/app:1", up.push(t, "library/app:1"))
	c.create(t, art)
	c.awaitCurrent(t, art)
	return up, art
}

// goesOn requires that an Artifact is withdrawn and restored, and another one
// published, although others want much.
func (c *cluster) goesOn(t *testing.T, up *upstream, art *v1alpha1.Artifact) {
	t.Helper()
	change(t, c, art, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" })
	c.awaitCondition(t, art, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Revoked")
	change(t, c, art, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRestored, "it has none" })
	c.awaitCondition(t, art, v1alpha1.ConditionRestored, metav1.ConditionTrue, "Restored")
	other := fixtures.Artifact(art.Namespace, "other", "docker.io/library/other:1", up.push(t, "library/other:1"))
	c.create(t, other)
	c.awaitCurrent(t, other)
}

// Slow copies of one publisher, and the many Artifacts that wait behind them, hold
// up neither what other publishers do nor a withdrawal at the same one.
func TestSlowCopiesHoldUpNobody(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	neighbour, theirs := c.published(t)
	ns, up := c.namespace(t), newUpstream(t)
	target, err := url.Parse(up.URL)
	must(t, err)
	var stalled atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(target)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/slow") && strings.Contains(r.URL.Path, "/blobs/") {
			stalled.Add(1)
			<-r.Context().Done()
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(slow.Close)
	c.aPublisher(t, ns, slow.URL)
	app := fixtures.Artifact(ns, "app", "docker.io/library/app:1", up.push(t, "library/app:1"))
	c.create(t, app)
	c.awaitCurrent(t, app)
	for i := range 8 { // as many as are copied in parallel, at most half of them from one repository
		repository := fmt.Sprintf("library/slow%d", i%2)
		image := fmt.Sprintf("%s:%d", repository, i)
		c.create(t, fixtures.Artifact(ns, fmt.Sprintf("slow-%d", i), "docker.io/"+image, up.push(t, image)))
	}
	eventually(t, func() error {
		n := stalled.Load()
		return errorIf(n < 8, "%d copies are stalled", n)
	})
	cheap := up.push(t, "library/cheap:1")
	c.crowd(t, ns, 900, "docker.io/library/cheap:", cheap)

	c.goesOn(t, neighbour, theirs)
	change(t, c, app, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" })
	c.awaitCondition(t, app, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Revoked")
	waits := fixtures.Artifact(ns, "crowd-1", "docker.io/library/cheap:1", cheap)
	c.awaitCondition(t, waits, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "Queued")
}

// hanging is a publisher that shows an honest ledger, and takes all other
// requests without an answer.
type hanging struct {
	status  http.HandlerFunc
	release chan struct{}
	after   http.Handler // what answers once it is released
	now     atomic.Int32
	most    atomic.Int32
}

func newHanging(t *testing.T) *hanging {
	book := fixtures.NewBook(t).Add(t, "a")
	return &hanging{
		release: make(chan struct{}),
		after:   &publications{seen: map[string]bool{}, all: map[string]int{}},
		status: func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(control.Status{Role: control.Publisher, PeerID: "12D3KooW", Ledger: book.Status(t, 0)})
		},
	}
}

func (h *hanging) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/status" {
		h.status(w, r)
		return
	}
	body, err := io.ReadAll(r.Body) // otherwise the end of the caller goes unnoticed
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	n := h.now.Add(1)
	defer h.now.Add(-1)
	for most := h.most.Load(); n > most && !h.most.CompareAndSwap(most, n); most = h.most.Load() {
	}
	select {
	case <-h.release:
		h.after.ServeHTTP(w, r)
	case <-r.Context().Done():
	}
}

// A publisher that takes requests and does not answer holds up neither others'
// Artifacts nor their sets; its own say what is wrong, and go on when it answers.
func TestHangingPublisherHoldsUpNobody(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	up, theirs := c.published(t)
	ns := c.namespace(t)
	publisher, h := publisherNode(ns, "http://127.0.0.1:1"), newHanging(t)
	c.create(t, publisher)
	c.runLiar(t, publisher, h.ServeHTTP, false)
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	digest := "sha256:" + strings.Repeat("0", 64)
	withdrawn := fixtures.Artifact(ns, "withdrawn", "docker.io/library/withdrawn:1", digest)
	withdrawn.Spec.State, withdrawn.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor"
	c.crowd(t, ns, 500, "docker.io/library/app:", digest)
	c.create(t, withdrawn)
	eventually(t, func() error { return errorIf(h.most.Load() == 0, "it was asked for nothing") })
	c.goesOn(t, up, theirs)
	art := fixtures.Artifact(ns, "crowd-499", "", "")
	for obj, condition := range map[status.Object]string{withdrawn: v1alpha1.ConditionRevoked, art: v1alpha1.ConditionPublished} {
		got := c.awaitCondition(t, obj, condition, metav1.ConditionUnknown, "PublisherHangs")
		if !strings.Contains(got.Message, `"publisher"`) || !strings.Contains(got.Message, "since 20") || !strings.Contains(got.Message, "delete") {
			t.Errorf("it is not said which publisher, since when, and what to do: %s", got.Message)
		}
	}
	if n := h.most.Load(); n > 20 {
		t.Errorf("%d requests waited for it at the same time", n)
	}
	close(h.release)
	c.awaitReason(t, art, v1alpha1.ConditionPublished, "TagPointsElsewhere")
}

// Sets of a publisher that does not answer hold up no other set, and say what is
// wrong.
func TestHangingPublisherHoldsUpNoSet(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns, h := c.namespace(t), newHanging(t)
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	c.create(t, publisher)
	c.runLiar(t, publisher, h.ServeHTTP, false)
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	var tags []string
	for i := range 300 {
		tags = append(tags, fmt.Sprint(i))
	}
	var first *v1alpha1.OfficialImageSet
	for i := range 12 {
		set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "app", Tags: tags})
		set.Name = fmt.Sprintf("images-%d", i)
		c.create(t, set)
		if i == 0 {
			first = set
		}
	}
	eventually(t, func() error { return errorIf(h.most.Load() == 0, "it was asked for nothing") })
	up, theirs := newUpstream(t), c.namespace(t)
	up.push(t, "library/alpine:1")
	c.aPublisher(t, theirs, up.URL)
	set := fixtures.ImageSet(theirs, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"1"}})
	c.create(t, set)
	c.awaitCurrent(t, set)
	c.awaitCondition(t, first, v1alpha1.ConditionResolved, metav1.ConditionUnknown, "PublisherHangs")
}

// Nodes that report pulls and do not answer when asked for proofs do not keep
// pulls of other nodes from becoming Artifacts.
func TestHangingReceiptsHoldUpNobody(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns, h := c.namespace(t), newHanging(t)
	digest := "sha256:" + strings.Repeat("0", 64)
	var pulled control.Receipts
	for i := range 300 {
		pulled.Receipts = append(pulled.Receipts, control.Receipt{Sequence: int64(i + 1), Image: fmt.Sprintf("docker.io/library/app:%d", i), Digest: digest, Pulls: 1, LastPulled: time.Now()})
	}
	for i := range 12 {
		n := publisherNode(ns, "http://127.0.0.1:1")
		n.Name = fmt.Sprintf("publisher-%d", i)
		n.Spec.Publisher.OnPull = &v1alpha1.OnPull{Policy: v1alpha1.OnPullPublish, Allow: []string{"app:*"}}
		c.create(t, n)
		c.runLiar(t, n, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/receipts" {
				_ = json.NewEncoder(w).Encode(pulled)
				return
			}
			h.ServeHTTP(w, r)
		}, false)
	}
	eventually(t, func() error { return errorIf(h.most.Load() == 0, "they were asked for no proof") })
	theirs, up := c.namespace(t), newUpstream(t)
	at, digests := c.alpines(t, theirs, up, "1")
	mirror, pod := c.elsewhere(t, publisherNode(theirs, up.URL), at)
	pod.pull(t, "library/alpine:1")
	c.awaitCurrent(t, c.artifact(t, mirror.Namespace, "docker.io/library/alpine:1", digests["docker.io/library/alpine:1"]))
}
