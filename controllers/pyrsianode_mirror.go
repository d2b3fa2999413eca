package controllers

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// defaultCacheSize is the disk that a mirror uses on each Kubernetes node.
var defaultCacheSize = resource.MustParse("10Gi")

// daemonSet is the workload of a mirror: one pod on each Kubernetes node.
func daemonSet(n *v1alpha1.PyrsiaNode, in podInputs) *appsac.DaemonSetApplyConfiguration {
	mirror := mirrorSpec(n)
	cache := defaultCacheSize
	if n.Spec.CacheSize != nil {
		cache = *n.Spec.CacheSize
	}
	args := []string{"--mirror-addr", fmt.Sprintf(":%d", portMirror), "--ledger-key", in.ledgerKey}
	for _, address := range in.bootstrap {
		args = append(args, "--bootstrap", address)
	}
	args = append(args, "--cache-size", fmt.Sprint(cache.Value()))
	for _, pattern := range mirror.Prefetch {
		args = append(args, "--prefetch", pattern)
	}

	template := podTemplate(n, in, args)
	template.Spec.
		WithVolumes(hostVolume("data", hostPath(n))).
		WithInitContainers(initContainer(n, in, "init-data", "CHOWN", "DAC_OVERRIDE", "FOWNER").
			WithArgs("init-data", "--owner", fmt.Sprintf("%d:%d", nodeUser, nodeUser), "/data").
			WithVolumeMounts(coreac.VolumeMount().WithName("data").WithMountPath("/data")))
	template.Spec.Containers[0].WithPorts(coreac.ContainerPort().WithName("mirror").
		WithContainerPort(portMirror).WithHostPort(mirror.Port).WithHostIP("127.0.0.1").WithProtocol(corev1.ProtocolTCP))
	if args := containerdArgs(n, mirror); args != nil {
		withContainerd(template.Spec, n, in, mirror, args)
	}

	return appsac.DaemonSet(n.Name, n.Namespace).
		WithLabels(labels(n, component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(labels(n, component(n)))).
			WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().
				WithRollingUpdate(appsac.RollingUpdateDaemonSet().WithMaxUnavailable(intstr.FromInt32(1)))).
			WithTemplate(template))
}

// containerdArgs are the arguments that set containerd up on a Kubernetes
// node; none if it was never managed.
func containerdArgs(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror) []string {
	var args []string
	switch {
	case m.Containerd != v1alpha1.ContainerdUnmanaged:
		args = []string{
			"containerd", "install", "--certs-d", "/certs.d",
			"--mirror", fmt.Sprintf("http://127.0.0.1:%d", m.Port), "--mode", string(m.Containerd),
		}
	case slices.Contains(n.Finalizers, containerdFinalizer): // it was managed before
		args = []string{"containerd", "uninstall", "--certs-d", "/certs.d"}
	default:
		return nil
	}
	for _, registry := range m.Registries {
		args = append(args, "--registry", registry)
	}
	return args
}

func withContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in podInputs, m v1alpha1.Mirror, args []string) {
	spec.WithVolumes(hostVolume("certs-d", m.ContainerdConfigPath)).
		WithInitContainers(initContainer(n, in, "containerd").
			WithArgs(args...).
			WithVolumeMounts(coreac.VolumeMount().WithName("certs-d").WithMountPath("/certs.d")))
}

// initContainer runs as root, as it touches directories of the host; it ends
// before the node starts.
func initContainer(n *v1alpha1.PyrsiaNode, in podInputs, name string, capabilities ...corev1.Capability) *coreac.ContainerApplyConfiguration {
	security := restricted().WithRunAsNonRoot(false).WithRunAsUser(0).WithRunAsGroup(0)
	security.Capabilities.WithAdd(capabilities...)
	node := nodeContainer(n, in, nil)
	return coreac.Container().WithName(name).
		WithImage(*node.Image).
		WithImagePullPolicy(corev1.PullIfNotPresent).
		WithResources(resources(n)).
		WithSecurityContext(security)
}

func hostVolume(name, path string) *coreac.VolumeApplyConfiguration {
	return coreac.Volume().WithName(name).
		WithHostPath(coreac.HostPathVolumeSource().WithPath(path).WithType(corev1.HostPathDirectoryOrCreate))
}

// cleanupDaemonSet gives each Kubernetes node its containerd set-up back. Its
// pods are ready when that is done.
func cleanupDaemonSet(n *v1alpha1.PyrsiaNode, in podInputs) *appsac.DaemonSetApplyConfiguration {
	mirror := mirrorSpec(n)
	args := []string{"containerd", "uninstall", "--certs-d", "/certs.d"}
	for _, registry := range mirror.Registries {
		args = append(args, "--registry", registry)
	}
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(1).
		WithNodeSelector(n.Spec.NodeSelector).
		WithSecurityContext(coreac.PodSecurityContext().
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(initContainer(n, in, "pause").WithArgs("pause").WithSecurityContext(restricted()))
	for _, t := range n.Spec.Tolerations {
		spec.WithTolerations(toleration(t))
	}
	withContainerd(spec, n, in, mirror, args)
	return appsac.DaemonSet(cleanupName(n), n.Namespace).
		WithLabels(labels(n, "cleanup")).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(labels(n, "cleanup"))).
			WithTemplate(coreac.PodTemplateSpec().WithLabels(labels(n, "cleanup")).WithSpec(spec)))
}

func cleanupName(n *v1alpha1.PyrsiaNode) string { return n.Name + "-cleanup" }
