package controllers_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// A mirror that v0.1.0 made keeps the machines that it has until its spec says
// others, also over restarts; a new one of the same operator stands on all.
func TestMirrorFromBeforeKeepsItsMachines(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	ns := c.namespace(t)
	old := lonely(t, ns, "old")
	c.create(t, old)
	was := desired.DaemonSet(old, desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: old.Spec.Network.LedgerKey, Host: claimOf(old)})
	was.Spec.Template.Spec.Tolerations, was.Spec.Template.Spec.NodeSelector = nil, nil // it knew none of its own
	must(t, apply.New(c.WithWatch, c.WithWatch).Apply(t.Context(), new(appsv1.DaemonSet), was))
	stands := func(n *v1alpha1.PyrsiaNode, want string) {
		t.Helper()
		eventually(t, func() error {
			set := c.daemonSet(t, n)
			if image := set.Spec.Template.Spec.InitContainers[0].Image; image != "ghcr.io/pyrsia/pyrsia:test" {
				return errors.New(image)
			}
			got := ""
			for _, toleration := range set.Spec.Template.Spec.Tolerations {
				got += toleration.Key + string(toleration.Operator) + " "
			}
			got += fmt.Sprint(set.Spec.Template.Spec.NodeSelector, set.Spec.Template.Spec.Affinity != nil)
			return errorIf(got != want, "%s stands on %s, want %s", n.Name, got, want)
		})
	}
	const before, everywhere = desired.TaintNotProven + "Exists map[kubernetes.io/os:linux] false", "Exists map[kubernetes.io/os:linux] true"
	stop := c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	stands(old, before)
	young := lonely(t, ns, "young")
	young.Spec.Mirror = &v1alpha1.Mirror{Port: 5002, Registries: []string{"quay.io"}}
	c.create(t, young)
	stands(young, everywhere)

	// Another operator sees the same, also if somebody has deleted the record.
	for range 2 {
		stop()
		c.change(t, old, func(s *v1alpha1.PyrsiaNodeSpec) {
			s.PodAnnotations = map[string]string{"example.com/a": fmt.Sprint(old.Generation)}
		})
		c.change(t, young, func(s *v1alpha1.PyrsiaNodeSpec) {
			s.PodAnnotations = map[string]string{"example.com/a": fmt.Sprint(young.Generation)}
		})
		stop = c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
		for _, n := range []*v1alpha1.PyrsiaNode{old, young} {
			eventually(t, func() error {
				got := c.daemonSet(t, n).Spec.Template.Annotations["example.com/a"]
				return errorIf(got != n.Spec.PodAnnotations["example.com/a"], "%s has the annotation %q", n.Name, got)
			})
		}
		stands(old, before)
		stands(young, everywhere)
		must(t, client.IgnoreNotFound(c.Delete(t.Context(), named("v1", "ConfigMap", pyrsianode.HostRecordName))))
	}
	c.change(t, old, func(s *v1alpha1.PyrsiaNodeSpec) {
		s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	})
	stands(old, "Exists map[kubernetes.io/os:linux] false")
}

// Whatever the record says, no pod of a mirror waits on a machine with Windows: the
// cluster's own controller removes a pod that v0.1.0 left there, and nothing is
// restored there, because nothing was set up.
func TestMirrorFromBeforeLeavesWindows(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	for _, node := range []*corev1.Node{fixtures.KubernetesNode("linux"), fixtures.KubernetesNode("windows", corev1.LabelOSStable, "windows"), fixtures.Tainted(fixtures.KubernetesNode("tainted"), "gpu")} {
		c.create(t, node)
		// The API server's own, of a node that is not ready, keeps v0.1.0's pods away.
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady })
		must(t, c.Update(t.Context(), node))
	}
	c.runControllers(t, "daemonset-controller")
	ns := c.namespace(t)
	old := lonely(t, ns, "old")
	c.create(t, old)
	was := desired.DaemonSet(old, desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: old.Spec.Network.LedgerKey, Host: claimOf(old)})
	was.Spec.Template.Spec.Tolerations, was.Spec.Template.Spec.NodeSelector = nil, nil
	must(t, apply.New(c.WithWatch, c.WithWatch).Apply(t.Context(), new(appsv1.DaemonSet), was))
	on := func(want string) {
		t.Helper()
		eventually(t, func() error {
			var got []string
			for _, p := range c.podsOf(t, old, "mirror") {
				got = append(got, objects.NodeOf(p))
				if p.DeletionTimestamp != nil { // no kubelet ends it
					_ = c.Delete(t.Context(), &p, client.GracePeriodSeconds(0))
				}
			}
			slices.Sort(got)
			return errorIf(fmt.Sprint(got) != want, "the pods are for %v, want %s", got, want)
		})
	}
	on("[linux windows]")
	for _, p := range c.podsOf(t, old, "mirror") { // and the scheduler has placed them
		binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: objects.NodeOf(p)}}
		must(t, c.SubResource("binding").Create(t.Context(), &p, binding))
	}
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	c.awaitPlaces(t, old, standardPath, "linux", "windows")
	on("[linux]")
	c.awaitPlaces(t, old, standardPath, "linux")
	if meta.FindStatusCondition(old.Status.Conditions, v1alpha1.ConditionContainerdNotRestored) != nil {
		t.Error(conditionsText(old.Status.Conditions))
	}
}
