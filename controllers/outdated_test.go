package controllers_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// Which fields of an object the operator owns is found out once for each state of the
// object and of what is desired of it, and again when either changes.
func TestOwnedFieldsAreReadOnce(t *testing.T) {
	c, ns := ownNamespace(t)
	a := apply.New(c.WithWatch, c.WithWatch)
	n := fixtures.Node(v1alpha1.RoleMirror, "settled")
	n.Namespace, n.UID = ns, "0b9c5c1e-5d0f-4b0c-9f5b-1f6f3d1f2a3b"
	in := desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: "key", Host: claimOf(n)}
	reads := 0
	extract := func(set *appsv1.DaemonSet, manager string) (*appsac.DaemonSetApplyConfiguration, error) {
		reads++
		return appsac.ExtractDaemonSet(set, manager)
	}
	live := new(appsv1.DaemonSet)
	ask := func(when string, outdated bool, want int) {
		t.Helper()
		got, err := apply.Outdated(t.Context(), a, n, live, "DaemonSet", extract, "settled", desired.DaemonSet(n, in))
		if err != nil || got != outdated || reads != want {
			t.Errorf("%s: outdated %v, %v, after %d reads, want %v after %d", when, got, err, reads, outdated, want)
		}
	}
	ask("before it is there", true, 0)
	must(t, a.Apply(t.Context(), live, desired.DaemonSet(n, in)))
	ask("applied", false, 1)
	ask("nothing has changed", false, 1)
	c.get(t, live)
	before := live.ResourceVersion
	live.Annotations = map[string]string{"example.com/by": "somebody else"}
	must(t, c.Update(t.Context(), live))
	if live.ResourceVersion == before {
		t.Fatal("nothing was changed")
	}
	ask("another's annotation", false, 2)
	in.Image = "ghcr.io/pyrsia/pyrsia:v0.2.0"
	ask("another image is desired", true, 3)
	ask("and not applied yet", true, 4)
	must(t, a.Apply(t.Context(), live, desired.DaemonSet(n, in)))
	ask("applied again", false, 5)
	ask("nothing has changed again", false, 5)
}
