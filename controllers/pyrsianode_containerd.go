package controllers

import (
	"fmt"
	"slices"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// containerSetUp is the container that sets containerd up on a Kubernetes node.
const containerSetUp = "containerd"

// manageContainerd sets containerd up on the Kubernetes node of a mirror's pod,
// as soon as the mirror is ready, and not before: the mirror becomes a sidecar
// (kubernetes.io/docs/concepts/workloads/pods/sidecar-containers), and what
// comes after it waits until its startup probe succeeds. A mirror that managed
// containerd before, and shall no more, takes that back before it starts.
func manageContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in podInputs, m v1alpha1.Mirror) {
	switch {
	case m.Containerd != v1alpha1.ContainerdUnmanaged:
		mirror := spec.Containers[0]
		mirror.WithRestartPolicy(corev1.ContainerRestartPolicyAlways).
			WithStartupProbe(probe("/readyz").WithPeriodSeconds(1).WithFailureThreshold(startupFailures))
		spec.WithInitContainers(&mirror)
		spec.Containers = nil
		spec.WithContainers(holdContainer(n, in))
		withContainerd(spec, n, in, m, installArgs(m))
	case slices.Contains(n.Finalizers, containerdFinalizer):
		withContainerd(spec, n, in, m, uninstallArgs(m))
	}
}

// startupFailures are the seconds after which a mirror that does not get ready
// is started again.
const startupFailures = 3600

func installArgs(m v1alpha1.Mirror) []string {
	args := []string{
		"containerd", "install", "--certs-d", "/certs.d", "--mode", string(m.Containerd),
		"--mirror", fmt.Sprintf("http://127.0.0.1:%d", m.Port),
	}
	return append(args, registryArgs(m)...)
}

func uninstallArgs(m v1alpha1.Mirror) []string {
	return append([]string{"containerd", "uninstall", "--certs-d", "/certs.d"}, registryArgs(m)...)
}

func registryArgs(m v1alpha1.Mirror) (args []string) {
	for _, registry := range m.Registries {
		args = append(args, "--registry", registry)
	}
	return args
}

func withContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in podInputs, m v1alpha1.Mirror, args []string) {
	spec.WithVolumes(hostVolume("certs-d", m.ContainerdConfigPath)).
		WithInitContainers(initContainer(n, in, containerSetUp).
			WithArgs(args...).
			WithVolumeMounts(coreac.VolumeMount().WithName("certs-d").WithMountPath("/certs.d")))
}

// holdContainer keeps a pod there whose other containers have done their work
// or are its sidecars.
func holdContainer(n *v1alpha1.PyrsiaNode, in podInputs) *coreac.ContainerApplyConfiguration {
	return initContainer(n, in, "hold").WithArgs("pause").WithSecurityContext(restricted()).WithResources(little())
}

// cutsItselfOff tells the registry from which a mirror's own image comes, if a
// strict containerd could pull it through the mirror alone: once the mirror is
// gone, it could never come back.
func cutsItselfOff(n *v1alpha1.PyrsiaNode, in podInputs) (registry string) {
	m := mirrorSpec(n)
	image, err := reference.ParseNormalizedNamed(nodeImage(n, in))
	if err != nil || n.Spec.Role != v1alpha1.RoleMirror || m.Containerd != v1alpha1.ContainerdStrict {
		return ""
	}
	if registry = reference.Domain(image); slices.Contains(m.Registries, registry) {
		return registry
	}
	return ""
}

// cleanupDaemonSet gives each Kubernetes node its containerd set-up back, and
// removes the mirror's data. Its pods are ready when that is done.
func cleanupDaemonSet(n *v1alpha1.PyrsiaNode, in podInputs) *appsac.DaemonSetApplyConfiguration {
	mirror := mirrorSpec(n)
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(1).
		WithSecurityContext(coreac.PodSecurityContext().
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(holdContainer(n, in))
	withPlace(spec, n)
	withContainerd(spec, n, in, mirror, uninstallArgs(mirror))
	spec.WithVolumes(hostVolume("data", hostPath(n))).
		WithInitContainers(initContainer(n, in, "remove-data", "DAC_OVERRIDE", "FOWNER").
			WithArgs("remove-data", "/data").
			WithVolumeMounts(coreac.VolumeMount().WithName("data").WithMountPath("/data")))
	return appsac.DaemonSet(cleanupName(n), n.Namespace).
		WithLabels(labels(n, "cleanup")).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(labels(n, "cleanup"))).
			WithTemplate(coreac.PodTemplateSpec().WithLabels(labels(n, "cleanup")).WithSpec(spec)))
}

func cleanupName(n *v1alpha1.PyrsiaNode) string { return n.Name + "-cleanup" }
