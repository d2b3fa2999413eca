package controllers_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// What the API server cannot know to be wrong becomes a condition that says
// what to do; nothing loops over it.
func TestImagesThatCannotBePublished(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	for name, tc := range map[string]struct {
		upstream func(*upstream)
		reason   string
	}{
		"the image does not exist": {func(*upstream) {}, "ImageNotFound"},
		"the upstream is down":     {func(u *upstream) { u.Close() }, "UpstreamUnavailable"},
		"it needs a login":         {func(u *upstream) { u.login = true }, "UpstreamUnauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := c.namespace(t)
			up := newUpstream(t)
			tc.upstream(up)
			publisher := publisherNode(ns, up.URL)
			set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"none"}})
			art := &v1alpha1.Artifact{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "by-hand"},
				Spec: v1alpha1.ArtifactSpec{
					Image: "docker.io/library/alpine:none", Digest: "sha256:" + strings.Repeat("0", 64),
					PublisherRef: v1alpha1.LocalReference{Name: "publisher"},
				},
			}
			c.create(t, publisher, set, art)
			c.runPod(t, publisher, "")

			c.awaitCondition(t, set, v1alpha1.ConditionResolved, metav1.ConditionFalse, tc.reason)
			got := c.awaitCondition(t, set, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.reason)
			if !strings.Contains(got.Message, "docker.io/library/alpine:none: ") || len(set.Status.Failures) != 1 || set.Status.Failed != 1 {
				t.Errorf("the set does not tell what failed: %q, %+v", got.Message, set.Status)
			}
			c.awaitCondition(t, art, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.reason)
			time.Sleep(time.Second) // the writes that said so end; then no retry, of which 8 s have some, is to write
			if writes := c.writes.during(ns, func() { time.Sleep(8 * time.Second) }); len(writes) > 0 {
				t.Errorf("written while it keeps failing:\n%s", strings.Join(writes, "\n"))
			}
		})
	}
}

func TestReferencesThatLeadNowhere(t *testing.T) {
	c, ns := ownNamespace(t)
	mirror := mirrorNode(ns)
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	c.create(t, mirror, set)
	c.awaitCondition(t, mirror, v1alpha1.ConditionReady, metav1.ConditionUnknown, "PublisherNotFound")
	c.awaitCondition(t, set, v1alpha1.ConditionReady, metav1.ConditionUnknown, "PublisherNotFound")

	wrong := mirrorNode(ns)
	wrong.Name, wrong.Spec.Network.PublisherRef.Name = "wrong", "mirror"
	c.create(t, wrong)
	c.awaitCondition(t, wrong, v1alpha1.ConditionStalled, metav1.ConditionTrue, "InvalidPublisherRef")
	if meta.FindStatusCondition(wrong.Status.Conditions, v1alpha1.ConditionReconciling) != nil {
		t.Error("stalled and reconciling at once")
	}

	// A key whose form is right, but not its checksum.
	forged := mirrorNode(ns)
	forged.Name = "forged"
	forged.Spec.Network = &v1alpha1.Network{
		LedgerKey: "example.com/ledger+00000000+" + strings.Repeat("A", 44),
		Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"},
	}
	c.create(t, forged)
	c.awaitCondition(t, forged, v1alpha1.ConditionStalled, metav1.ConditionTrue, "InvalidLedgerKey")
}
