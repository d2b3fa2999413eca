package desired

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// ContainerInitData is the container that claims a mirror's folder.
const ContainerInitData = "init-data"

// defaultCacheSize is the disk that a mirror uses on each Kubernetes node.
var defaultCacheSize = resource.MustParse("10Gi")

// DaemonSet is the workload of a mirror: one pod on each Kubernetes node.
func DaemonSet(n *v1alpha1.PyrsiaNode, in Inputs) *appsac.DaemonSetApplyConfiguration {
	mirror := MirrorSpec(n)
	cache := defaultCacheSize
	if n.Spec.CacheSize != nil {
		cache = *n.Spec.CacheSize
	}
	args := []string{"--mirror-addr", "unix:/data/" + FrontendDir + "/mirror.sock", "--ledger-key", in.LedgerKey}
	for _, address := range in.Bootstrap {
		args = append(args, "--bootstrap", address)
	}
	args = append(args, "--cache-size", fmt.Sprint(cache.Value()))
	// An image that was chosen may be older than the flag.
	if mirror.Containerd == v1alpha1.ContainerdFallback && n.Spec.Image == "" {
		args = append(args, "--mirror-fallback")
	}
	if mirror.MaxLedgerAge != nil {
		args = append(args, "--max-ledger-age", mirror.MaxLedgerAge.Duration.String(), "--refuse-stale-tags")
	}
	for _, pattern := range mirror.Prefetch {
		args = append(args, "--prefetch", pattern)
	}

	template := podTemplate(n, in, args)
	template.Spec.
		WithVolumes(hostVolume("data", in.Host.Folder)).
		WithInitContainers(claimContainer(n, in, "data"))
	manageContainerd(template.Spec, n, in, mirror)

	return appsac.DaemonSet(n.Name, n.Namespace).
		WithLabels(objects.Labels(n, objects.Component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(objects.Labels(n, objects.Component(n)))).
			WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().
				WithRollingUpdate(appsac.RollingUpdateDaemonSet().WithMaxUnavailable(in.maxUnavailable(*mirror.MaxUnavailable)))).
			WithTemplate(template))
}

// initContainer runs as root, as it touches directories of the host; it ends
// before the node starts. Its image is the operator's own: anyone who may
// create PyrsiaNodes can set spec.image.
func initContainer(n *v1alpha1.PyrsiaNode, in Inputs, name string, capabilities ...corev1.Capability) *coreac.ContainerApplyConfiguration {
	security := restricted().WithRunAsNonRoot(false).WithRunAsUser(0).WithRunAsGroup(0)
	security.Capabilities.WithAdd(capabilities...)
	return coreac.Container().WithName(name).
		WithImage(in.Image).
		WithImagePullPolicy(corev1.PullIfNotPresent).
		WithResources(resources(n)).
		WithSecurityContext(security)
}

// claimContainer makes the folder on the machine this PyrsiaNode's, unless another
// namespace's has it, and gives it to the user of its pods.
func claimContainer(n *v1alpha1.PyrsiaNode, in Inputs, volume string) *coreac.ContainerApplyConfiguration {
	return initContainer(n, in, ContainerInitData, "CHOWN", "DAC_OVERRIDE", "FOWNER").
		WithArgs("init-data", "--owner", fmt.Sprintf("%d:%d", nodeUser, nodeUser), "--claim", SetupOwner(n), "/data", "/data/"+FrontendDir).
		// What it says when it fails is what the condition says.
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithVolumeMounts(coreac.VolumeMount().WithName(volume).WithMountPath("/data"))
}

func hostVolume(name, path string) *coreac.VolumeApplyConfiguration {
	return coreac.Volume().WithName(name).
		WithHostPath(coreac.HostPathVolumeSource().WithPath(path).WithType(corev1.HostPathDirectoryOrCreate))
}
