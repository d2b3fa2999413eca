package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// awaitPulled waits until an Artifact's status tells of a pull after a time.
func (c *cluster) awaitPulled(t *testing.T, art *v1alpha1.Artifact, after time.Time) {
	t.Helper()
	c.until(t, art, func() error {
		return errorIf(art.Status.LastPulled == nil || !art.Status.LastPulled.After(after), "%s was last pulled at %v", art.Name, art.Status.LastPulled)
	})
}

// lastPulledOwners are the field managers of status.lastPulled, with what else each
// owns of the status.
func lastPulledOwners(t *testing.T, art *v1alpha1.Artifact) (owners []string) {
	t.Helper()
	for _, m := range art.ManagedFields {
		fields, err := m.FieldsV1.MarshalJSON()
		must(t, err)
		if m.Subresource == "status" && strings.Contains(string(fields), `"f:lastPulled"`) {
			owners = append(owners, fmt.Sprintf("%s %s %s", m.Manager, m.Operation, fields))
		}
	}
	return owners
}

// status.lastPulled has one owner, that of the pull histories. It takes the field over
// from v0.1.0, and no other write of the status touches it.
func TestLastPulledHasOneOwner(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	_, digests := c.alpines(t, ns, up, "1")
	const image = "docker.io/library/alpine:1"
	art := c.artifact(t, ns, image, digests[image])
	before := art.DeepCopy()
	art.Status.LastPulled = &metav1.Time{Time: time.Now().Add(-2 * time.Hour).Truncate(time.Second)}
	must(t, c.Status().Patch(t.Context(), art, client.MergeFrom(before), client.FieldOwner("pyrsia-operator")))
	const field = `{"f:status":{"f:lastPulled":{}}}`
	if diff := cmp.Diff([]string{"pyrsia-operator Update " + field}, lastPulledOwners(t, art)); diff != "" {
		t.Fatalf("this is not what v0.1.0 left (-want +got):\n%s", diff)
	}
	old := art.Status.LastPulled.Time

	mirror := mirrorNode(ns)
	c.create(t, mirror)
	pod := c.runPod(t, mirror, "")
	c.awaitCurrent(t, mirror)
	pod.pull(t, "library/alpine:1")
	c.awaitPulled(t, art, old)
	want, pulled := []string{"pyrsia-operator-pulls Apply " + field}, *art.Status.LastPulled
	if diff := cmp.Diff(want, lastPulledOwners(t, art)); diff != "" {
		t.Errorf("after a pull (-want +got):\n%s", diff)
	}

	change(t, c, art, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" })
	c.awaitCondition(t, art, v1alpha1.ConditionRevoked, metav1.ConditionTrue, v1alpha1.ReasonRevoked)
	if diff := cmp.Diff(want, lastPulledOwners(t, art)); diff != "" {
		t.Errorf("after the status was written (-want +got):\n%s", diff)
	}
	if !art.Status.LastPulled.Equal(&pulled) {
		t.Errorf("lastPulled is %v, not %v", art.Status.LastPulled, pulled)
	}
}
