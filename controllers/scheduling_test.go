package controllers

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// kubernetesNode is one with labels, each KEY, VALUE.
func kubernetesNode(name string, labels ...string) *corev1.Node {
	node := new(corev1.Node)
	node.Name, node.Labels = name, map[string]string{corev1.LabelOSStable: "linux", corev1.LabelHostname: name}
	for i := 0; i < len(labels); i += 2 {
		node.Labels[labels[i]] = labels[i+1]
	}
	return node
}

func tainted(node *corev1.Node, key string) *corev1.Node {
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	return node
}

// A mirror that says nothing stands on each machine with Linux, whatever its taints,
// and on nothing else. What its spec says counts instead.
func TestWhereMirrorsStand(t *testing.T) {
	plain := node(v1alpha1.RoleMirror, "mirror")
	chosen := node(v1alpha1.RoleMirror, "mirror")
	chosen.Spec.NodeSelector = map[string]string{"pool": "a"}
	chosen.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
	virtual := node(v1alpha1.RoleMirror, "mirror")
	virtual.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "type", Operator: corev1.NodeSelectorOpIn, Values: []string{"virtual-kubelet"}}}}},
	}}}
	apart := node(v1alpha1.RoleMirror, "mirror")
	apart.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
	publisher := node(v1alpha1.RolePublisher, "publisher")

	windows := kubernetesNode("windows", corev1.LabelOSStable, "windows")
	fargate := kubernetesNode("fargate", "eks.amazonaws.com/compute-type", "fargate")
	aks := kubernetesNode("aks", "type", "virtual-kubelet")
	admiralty := kubernetesNode("admiralty", "virtual-kubelet.io/provider", "admiralty")
	liqo := kubernetesNode("liqo", "liqo.io/type", "virtual-node")
	arm := kubernetesNode("arm", corev1.LabelArchStable, "arm64", "eks.amazonaws.com/compute-type", "ec2")
	gpu, control := tainted(kubernetesNode("gpu", "pool", "a"), "gpu"), tainted(kubernetesNode("control"), "node-role.kubernetes.io/control-plane")
	fresh := tainted(tainted(kubernetesNode("fresh", "pool", "a"), taintNotProven), corev1.TaintNodeNotReady)
	all := []*corev1.Node{windows, fargate, aks, admiralty, liqo, arm, gpu, control, fresh}
	for name, tc := range map[string]struct {
		n         *v1alpha1.PyrsiaNode
		everyNode bool
		want      []string
	}{
		"it says nothing":         {plain, true, []string{"arm", "gpu", "control", "fresh"}},
		"v0.1.0 made it":          {plain, false, []string{"fargate", "aks", "admiralty", "liqo", "arm", "fresh"}},
		"it chooses":              {chosen, true, []string{"gpu", "fresh"}},
		"it wants virtual nodes":  {virtual, true, []string{"aks"}},
		"it has another affinity": {apart, true, []string{"arm", "gpu", "control", "fresh"}},
		"a publisher":             {publisher, false, []string{"windows", "fargate", "aks", "admiralty", "liqo", "arm", "fresh"}},
	} {
		var got []string
		s := schedulingOf(tc.n, tc.everyNode)
		for _, node := range all {
			if s.chooses(node) && s.untolerated(node) == nil {
				got = append(got, node.Name)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if plain.Spec.NodeSelector != nil || plain.Spec.Affinity != nil || apart.Spec.Affinity.NodeAffinity != nil {
		t.Error("the spec was changed")
	}
}

// A mirror that v0.1.0 made keeps the machines that it has until its spec says
// others, also over restarts; a new one of the same operator stands on all.
func TestMirrorFromBeforeKeepsItsMachines(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	ns := c.namespace(t)
	old := lonely(t, ns, "old")
	c.create(t, old)
	was := daemonSet(old, podInputs{image: "ghcr.io/pyrsia/pyrsia:v0.1.0", ledgerKey: old.Spec.Network.LedgerKey, host: claimOf(old)})
	was.Spec.Template.Spec.Tolerations, was.Spec.Template.Spec.NodeSelector = nil, nil // it knew none of its own
	if err := (applier{client: c.WithWatch, live: c.WithWatch}).apply(t.Context(), new(appsv1.DaemonSet), was); err != nil {
		t.Fatal(err)
	}
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
			if got += fmt.Sprint(set.Spec.Template.Spec.NodeSelector, set.Spec.Template.Spec.Affinity != nil); got != want {
				return fmt.Errorf("%s stands on %s, want %s", n.Name, got, want)
			}
			return nil
		})
	}
	const before, everywhere = taintNotProven + "Exists map[kubernetes.io/os:linux] false", "Exists map[kubernetes.io/os:linux] true"
	stop := c.operate(t, DefaultHostRules("pyrsia-system"))
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
		stop = c.operate(t, DefaultHostRules("pyrsia-system"))
		for _, n := range []*v1alpha1.PyrsiaNode{old, young} {
			eventually(t, func() error {
				if got := c.daemonSet(t, n).Spec.Template.Annotations["example.com/a"]; got != n.Spec.PodAnnotations["example.com/a"] {
					return fmt.Errorf("%s has the annotation %q", n.Name, got)
				}
				return nil
			})
		}
		stands(old, before)
		stands(young, everywhere)
		if err := client.IgnoreNotFound(c.Delete(t.Context(), named("v1", "ConfigMap", hostRecordName))); err != nil {
			t.Fatal(err)
		}
	}
	c.change(t, old, func(s *v1alpha1.PyrsiaNodeSpec) {
		s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	})
	stands(old, "Exists map[kubernetes.io/os:linux] false")
}

// Whatever the record says, no pod of a mirror waits on a machine with Windows: of one
// that v0.1.0 made the cluster's own controller takes it away, and nothing is put back
// there, for nothing was set up.
func TestMirrorFromBeforeLeavesWindows(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	for _, node := range []*corev1.Node{kubernetesNode("linux"), kubernetesNode("windows", corev1.LabelOSStable, "windows"), tainted(kubernetesNode("tainted"), "gpu")} {
		c.create(t, node)
		// The API server's own, of a node that is not ready, keeps v0.1.0's pods away.
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady })
		if err := c.Update(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	c.runControllers(t, "daemonset-controller")
	ns := c.namespace(t)
	old := lonely(t, ns, "old")
	c.create(t, old)
	was := daemonSet(old, podInputs{image: "ghcr.io/pyrsia/pyrsia:v0.1.0", ledgerKey: old.Spec.Network.LedgerKey, host: claimOf(old)})
	was.Spec.Template.Spec.Tolerations, was.Spec.Template.Spec.NodeSelector = nil, nil
	if err := (applier{client: c.WithWatch, live: c.WithWatch}).apply(t.Context(), new(appsv1.DaemonSet), was); err != nil {
		t.Fatal(err)
	}
	on := func(want string) {
		t.Helper()
		eventually(t, func() error {
			var got []string
			for _, p := range c.podsOf(t, old, "mirror") {
				got = append(got, nodeOf(p))
				if p.DeletionTimestamp != nil { // no kubelet ends it
					_ = c.Delete(t.Context(), &p, client.GracePeriodSeconds(0))
				}
			}
			if slices.Sort(got); fmt.Sprint(got) != want {
				return fmt.Errorf("the pods are for %v, want %s", got, want)
			}
			return nil
		})
	}
	on("[linux windows]")
	for _, p := range c.podsOf(t, old, "mirror") { // and the scheduler has placed them
		binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: nodeOf(p)}}
		if err := c.SubResource("binding").Create(t.Context(), &p, binding); err != nil {
			t.Fatal(err)
		}
	}
	c.operate(t, DefaultHostRules("pyrsia-system"))
	c.awaitPlaces(t, old, standardPath, "linux", "windows")
	on("[linux]")
	c.awaitPlaces(t, old, standardPath, "linux")
	if meta.FindStatusCondition(old.Status.Conditions, v1alpha1.ConditionContainerdNotRestored) != nil {
		t.Error(conditionsText(old.Status.Conditions))
	}
}
