package objects

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IsReady tells whether all containers of a pod are ready.
func IsReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// StatusOf is the status of a container; an empty one if it has none yet.
func StatusOf(all []corev1.ContainerStatus, name string) (s corev1.ContainerStatus) {
	if i := slices.IndexFunc(all, func(s corev1.ContainerStatus) bool { return s.Name == name }); i >= 0 {
		s = all[i]
	}
	return s
}

// LacksProofAlone tells whether a pod is not ready for want of the proof alone: its
// mirror serves, and containerd is set up.
func LacksProofAlone(p corev1.Pod) bool {
	return !IsReady(p) && SetUp(p) && StatusOf(p.Status.InitContainerStatuses, ContainerNode).Ready &&
		StatusOf(p.Status.ContainerStatuses, ContainerKeep).Ready && !StatusOf(p.Status.ContainerStatuses, ContainerCanary).Ready
}

// HoldsUp tells whether a pod would hold up a roll-out for want of the proof: not
// one that only starts, as all do for a moment.
func HoldsUp(p corev1.Pod) bool {
	waiting := StatusOf(p.Status.ContainerStatuses, ContainerCanary).State.Waiting
	return LacksProofAlone(p) && waiting != nil && (strings.Contains(waiting.Reason, "Image") || strings.HasSuffix(waiting.Reason, "BackOff"))
}

// CountIf counts the pods for which something holds.
func CountIf(pods []corev1.Pod, holds func(corev1.Pod) bool) (count int32) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil && holds(p) {
			count++
		}
	}
	return count
}

// NodeOf is the Kubernetes node of a DaemonSet's pod, also of one that waits to
// be placed there.
func NodeOf(p corev1.Pod) string {
	a := p.Spec.Affinity
	if p.Spec.NodeName != "" || a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return p.Spec.NodeName
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// SetUp tells whether a mirror's pod has set containerd up.
func SetUp(p corev1.Pod) bool {
	s := StatusOf(p.Status.InitContainerStatuses, ContainerSetUp)
	return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
}
