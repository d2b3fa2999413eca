package desired

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// TaintNotProven keeps pods off a new Kubernetes node until the mirrors there are
// proven (spec.mirror.startupTaint). All that the operator makes tolerates it: a
// cluster of new nodes alone would have no mirror otherwise.
const TaintNotProven = "pyrsia.io/mirror-not-proven"

// virtualNodes are the labels of Kubernetes nodes without a machine and containerd
// behind them: each requirement selects the other nodes. A DaemonSet's pod there
// waits for ever, or costs as much as a machine.
var virtualNodes = []corev1.NodeSelectorRequirement{
	{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-kubelet", "kwok"}}, // also AKS's and ACK's
	{Key: "virtual-kubelet.io/provider", Operator: corev1.NodeSelectorOpDoesNotExist},                // Admiralty
	{Key: "liqo.io/type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-node"}},
	{Key: "eks.amazonaws.com/compute-type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"fargate"}},
	{Key: corev1.LabelInstanceTypeStable, Operator: corev1.NodeSelectorOpNotIn, Values: []string{"eklet"}}, // Tencent's super nodes
}

// Scheduling says on which Kubernetes nodes pods may run.
type Scheduling struct {
	nodeSelector map[string]string
	tolerations  []corev1.Toleration
	affinity     *corev1.Affinity
}

// SchedulingOf is that of a PyrsiaNode's pods. EveryNode has a mirror stand on each
// Linux machine unless its spec says otherwise. Those of v0.1.0, too, run on no other
// system: their pods waited there for ever.
func SchedulingOf(n *v1alpha1.PyrsiaNode, everyNode bool) Scheduling {
	s := Scheduling{maps.Clone(n.Spec.NodeSelector), slices.Clone(n.Spec.Tolerations), n.Spec.Affinity.DeepCopy()}
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
	if !tolerates(s.tolerations, &corev1.Taint{Key: TaintNotProven, Effect: corev1.TaintEffectNoSchedule}) {
		s.tolerations = append(s.tolerations, corev1.Toleration{Key: TaintNotProven, Operator: corev1.TolerationOpExists})
	}
	return s
}

// avoidVirtualNodes does so unless it is said already which nodes are required.
func (s *Scheduling) avoidVirtualNodes() {
	if s.affinity == nil {
		s.affinity = new(corev1.Affinity)
	}
	if s.affinity.NodeAffinity == nil {
		s.affinity.NodeAffinity = new(corev1.NodeAffinity)
	}
	if !RequiresNodes(s.affinity) {
		s.affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: virtualNodes}},
		}
	}
}

// RequiresNodes tells whether an affinity says which nodes are required.
func RequiresNodes(a *corev1.Affinity) bool {
	return a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
}

// Chooses tells whether a Kubernetes node is one that the pods are for. Taints do
// not count: the PyrsiaNode did not ask for them.
func (s Scheduling) Chooses(node *corev1.Node) bool {
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

// Untolerated is a taint of a Kubernetes node that keeps the pods of a DaemonSet
// away; nil if none does.
func (s Scheduling) Untolerated(node *corev1.Node) *corev1.Taint {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !slices.Contains(byDaemonSets, taint.Key) && !tolerates(s.tolerations, taint) {
			return taint
		}
	}
	return nil
}

// withPlace puts pods where they belong.
func withPlace(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in Inputs) {
	s := SchedulingOf(n, in.EveryNode)
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
