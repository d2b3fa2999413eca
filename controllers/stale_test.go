package controllers_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// The cache is behind the API server at times: what follows from an older state of an
// object is not written over what is known of a newer one.
func TestWhatFollowsFromAnOlderStateIsNotWritten(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	art := fixtures.Artifact(c.namespace(t), "art", "docker.io/library/alpine:3.20", "sha256:"+strings.Repeat("0", 64))
	art.Spec.PublisherRef.Name = "nobody" // the operator writes once
	c.create(t, art)
	c.awaitCondition(t, art, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "PublisherNotFound")

	older := art.DeepCopy()
	status.SetDone(art, v1alpha1.ConditionPublished, "Published", "it is a block")
	must(t, c.Status().Update(t.Context(), art))
	w := status.Writer[*v1alpha1.Artifact]{Client: c, Recorder: events.NewFakeRecorder(8)}
	for name, found := range map[string]error{"nothing was wrong": nil, "it failed": errors.New("failed"), "it failed for ever": reconcile.TerminalError(errors.New("failed"))} {
		after := older.DeepCopy()
		status.SetWaiting(after, v1alpha1.ConditionPublished, "PublisherLedgerNotVerified", "it is not verified")
		result, err := w.Finish(t.Context(), older, after, 0, found)
		if result.RequeueAfter != 200*time.Millisecond || err != nil {
			t.Errorf("%s: tried again after %s, error %v; want it to be soon, and none", name, result.RequeueAfter, err)
		}
		c.get(t, art)
		if !status.IsTrue(art, v1alpha1.ConditionPublished) {
			t.Fatalf("%s: the older state was written: %+v", name, art.Status.Conditions)
		}
	}
}

// A status that could not be written is written later, also of what is given up.
func TestWhatIsGivenUpIsTold(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	art := fixtures.Artifact(c.namespace(t), "art", "docker.io/library/alpine:3.20", "sha256:"+strings.Repeat("0", 64))
	art.Spec.PublisherRef.Name = "nobody"
	c.create(t, art)
	c.awaitCondition(t, art, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "PublisherNotFound")
	w := status.Writer[*v1alpha1.Artifact]{Client: c, Recorder: events.NewFakeRecorder(8)}
	after := art.DeepCopy()
	status.SetWaiting(after, "not the name of a condition", "", "which the API server refuses")
	if _, err := w.Finish(t.Context(), art, after, 0, reconcile.TerminalError(errors.New("given up"))); err == nil || errors.Is(err, reconcile.TerminalError(nil)) {
		t.Errorf("%v: is never tried again", err)
	}
}

// An Artifact whose status an earlier version left half-written is published.
func TestBlockOfAnUnfinishedArtifactIsAskedForAgain(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	const image = "docker.io/library/alpine:3.20"
	art := fixtures.Artifact(ns, "art", image, up.push(t, "library/alpine:3.20"))
	c.create(t, art)
	c.awaitCondition(t, art, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "PublisherNotFound")
	before := art.DeepCopy()
	art.Status.Block = &v1alpha1.Block{Height: 7, Entry: "{}", Proof: "none"}
	must(t, c.Status().Patch(t.Context(), art, client.MergeFrom(before)))
	c.aPublisher(t, ns, up.URL)
	c.awaitCurrent(t, art)
	if art.Status.Block.Height != 0 {
		t.Errorf("it is block %d, want 0", art.Status.Block.Height)
	}
}
