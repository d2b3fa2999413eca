package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// CleanupDaemonSet gives Kubernetes nodes their containerd set-up back, and
// removes the mirror's data unless a mirror goes on there. Its pods are ready
// when that is done.
func CleanupDaemonSet(n *v1alpha1.PyrsiaNode, in Inputs, at Place) *appsac.DaemonSetApplyConfiguration {
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(1).
		WithSecurityContext(coreac.PodSecurityContext().
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(holdContainer(n, in))
	withPlace(spec, n, in)
	if len(at.Nodes) > 0 {
		onNodes(spec, n, at)
	}
	spec.WithVolumes(hostVolume("certs-d", at.Path))
	withContainerd(spec, n, in, objects.ContainerSetUp, uninstallArgs(n, in)...)
	if (at.Abandoned || !n.DeletionTimestamp.IsZero()) && in.Host.Folder != "" {
		spec.WithVolumes(hostVolume("data", in.Host.Folder)).
			WithInitContainers(initContainer(n, in, "remove-data", "DAC_OVERRIDE", "FOWNER").
				WithArgs("remove-data", "--claim", SetupOwner(n), "/data").
				WithVolumeMounts(coreac.VolumeMount().WithName("data").WithMountPath("/data")))
	}
	return appsac.DaemonSet(CleanupName(n), n.Namespace).
		WithLabels(objects.Labels(n, "cleanup")).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(objects.Labels(n, "cleanup"))).
			// A pod does its work once: none has to wait for another.
			WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().
				WithRollingUpdate(appsac.RollingUpdateDaemonSet().WithMaxUnavailable(intstr.FromString("100%")))).
			WithTemplate(coreac.PodTemplateSpec().WithLabels(objects.Labels(n, "cleanup")).
				WithAnnotations(map[string]string{objects.AnnotationPath: at.Path}).WithSpec(spec)))
}

// onNodes places pods on certain Kubernetes nodes, whatever taints they have
// got since, in place of where the spec would.
func onNodes(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, at Place) {
	affinity := coreac.Affinity()
	required := coreac.NodeSelector()
	for _, node := range at.Nodes {
		required.WithNodeSelectorTerms(coreac.NodeSelectorTerm().WithMatchFields(
			coreac.NodeSelectorRequirement().WithKey("metadata.name").WithOperator(corev1.NodeSelectorOpIn).WithValues(node)))
	}
	affinity.WithNodeAffinity(coreac.NodeAffinity().WithRequiredDuringSchedulingIgnoredDuringExecution(required))
	if at.Abandoned {
		// Where a mirror has come back meanwhile nothing is taken away, and none
		// comes while that is done: the scheduler keeps the two apart either way.
		affinity.WithPodAntiAffinity(coreac.PodAntiAffinity().WithRequiredDuringSchedulingIgnoredDuringExecution(
			coreac.PodAffinityTerm().WithTopologyKey(corev1.LabelHostname).
				WithLabelSelector(metaac.LabelSelector().WithMatchLabels(objects.Labels(n, objects.Component(n))))))
	}
	// On another system than Linux a pod of v0.1.0's mirrors waited, and set nothing up.
	spec.NodeSelector, spec.Tolerations = map[string]string{corev1.LabelOSStable: string(corev1.Linux)}, nil
	spec.WithAffinity(affinity).WithTolerations(coreac.Toleration().WithOperator(corev1.TolerationOpExists))
}

// CleanupName is the DaemonSet that gives Kubernetes nodes their set-up back.
func CleanupName(n *v1alpha1.PyrsiaNode) string { return n.Name + objects.SuffixCleanup }

// ManagesContainerd tells whether a PyrsiaNode sets containerd up.
func ManagesContainerd(n *v1alpha1.PyrsiaNode) bool {
	return n.Spec.Role == v1alpha1.RoleMirror && MirrorSpec(n).Containerd != v1alpha1.ContainerdUnmanaged
}

// Place is a path on some Kubernetes nodes.
type Place struct {
	Path  string
	Nodes []string // empty at a deletion: wherever the spec places the mirror
	// Abandoned are nodes without a mirror: its data goes too, and no pod of the
	// mirror may come while that is done. Not so where only the path has changed.
	Abandoned bool
}
