package controllers

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// taintNotProven keeps pods off a new Kubernetes node until the mirrors there are
// proven (spec.mirror.startupTaint). All that the operator makes tolerates it: a
// cluster of new nodes alone would have no mirror otherwise.
const taintNotProven = "pyrsia.io/mirror-not-proven"

// virtualNodes are the labels of Kubernetes nodes behind which there is no machine
// with a containerd: of each, what a node that is not virtual has. A DaemonSet's pod
// there waits for ever, or costs as much as a machine.
var virtualNodes = []corev1.NodeSelectorRequirement{
	{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-kubelet", "kwok"}}, // also AKS's and ACK's
	{Key: "virtual-kubelet.io/provider", Operator: corev1.NodeSelectorOpDoesNotExist},                // Admiralty
	{Key: "liqo.io/type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-node"}},
	{Key: "eks.amazonaws.com/compute-type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"fargate"}},
	{Key: corev1.LabelInstanceTypeStable, Operator: corev1.NodeSelectorOpNotIn, Values: []string{"eklet"}}, // Tencent's super nodes
}

// scheduling says on which Kubernetes nodes pods may run.
type scheduling struct {
	nodeSelector map[string]string
	tolerations  []corev1.Toleration
	affinity     *corev1.Affinity
}

// schedulingOf is that of a PyrsiaNode's pods. everyNode has a mirror stand on each
// Linux machine unless its spec says otherwise. Those of v0.1.0, too, run on no other
// system: their pods waited there for ever.
func schedulingOf(n *v1alpha1.PyrsiaNode, everyNode bool) scheduling {
	s := scheduling{maps.Clone(n.Spec.NodeSelector), slices.Clone(n.Spec.Tolerations), n.Spec.Affinity.DeepCopy()}
	if _, chosen := s.nodeSelector[corev1.LabelOSStable]; n.Spec.Role == v1alpha1.RoleMirror && !chosen {
		if s.nodeSelector == nil {
			s.nodeSelector = map[string]string{}
		}
		s.nodeSelector[corev1.LabelOSStable] = string(corev1.Linux)
	}
	if n.Spec.Role == v1alpha1.RoleMirror && everyNode {
		if len(s.tolerations) == 0 {
			s.tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}
		s.avoidVirtualNodes()
	}
	if !tolerates(s.tolerations, &corev1.Taint{Key: taintNotProven, Effect: corev1.TaintEffectNoSchedule}) {
		s.tolerations = append(s.tolerations, corev1.Toleration{Key: taintNotProven, Operator: corev1.TolerationOpExists})
	}
	return s
}

// avoidVirtualNodes does so unless it is said already which nodes are required.
func (s *scheduling) avoidVirtualNodes() {
	if s.affinity == nil {
		s.affinity = new(corev1.Affinity)
	}
	if s.affinity.NodeAffinity == nil {
		s.affinity.NodeAffinity = new(corev1.NodeAffinity)
	}
	if !requiresNodes(s.affinity) {
		s.affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: virtualNodes}},
		}
	}
}

// requiresNodes tells whether an affinity says which nodes are required.
func requiresNodes(a *corev1.Affinity) bool {
	return a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
}

// chooses tells whether a Kubernetes node is one that the pods are for. Taints do
// not count: they are no wish of the PyrsiaNode's.
func (s scheduling) chooses(node *corev1.Node) bool {
	ok, err := nodeaffinity.NewRequiredNodeAffinity(s.nodeSelector, s.affinity).Match(node)
	return ok && err == nil
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	return slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, false) })
}

// byDaemonSets are the taints that each DaemonSet's pods tolerate
// (kubernetes.io/docs/concepts/workloads/controllers/daemonset).
var byDaemonSets = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeDiskPressure, corev1.TaintNodeMemoryPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable,
}

// untolerated is a taint of a Kubernetes node that keeps the pods of a DaemonSet
// away; nil if none does.
func (s scheduling) untolerated(node *corev1.Node) *corev1.Taint {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !slices.Contains(byDaemonSets, taint.Key) && !tolerates(s.tolerations, taint) {
			return taint
		}
	}
	return nil
}

// withPlace puts pods where they belong.
func withPlace(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in podInputs) {
	s := schedulingOf(n, in.everyNode)
	spec.WithNodeSelector(s.nodeSelector)
	for _, t := range s.tolerations {
		spec.WithTolerations(asApply[coreac.TolerationApplyConfiguration](t))
	}
	if s.affinity != nil {
		spec.WithAffinity(asApply[coreac.AffinityApplyConfiguration](s.affinity))
	}
	if n.Spec.PriorityClassName != "" {
		spec.WithPriorityClassName(n.Spec.PriorityClassName)
	}
	for _, p := range n.Spec.ImagePullSecrets {
		spec.WithImagePullSecrets(coreac.LocalObjectReference().WithName(p.Name))
	}
}

// madeForEveryNode tells whether the pods of a mirror have a place that its spec
// does not name: then the operator that made them knew where mirrors belong. v0.1.0
// did not, and its mirrors stay where they are.
func madeForEveryNode(n *v1alpha1.PyrsiaNode, set *appsv1.DaemonSet) bool {
	pod := set.Spec.Template.Spec
	return len(n.Spec.Tolerations) == 0 && slices.ContainsFunc(pod.Tolerations, func(t corev1.Toleration) bool { return t.Key != taintNotProven }) ||
		!requiresNodes(n.Spec.Affinity) && requiresNodes(pod.Affinity)
}
