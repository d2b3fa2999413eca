package desired

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// A strict containerd has nowhere to go but the mirror's port, so this must
// answer while the mirror's pod is replaced. A frontend on each Kubernetes
// node holds it: it has no data and no keys, passes connections on to the
// mirror's Unix socket, and has them wait while there is none. Its successor
// takes the listening socket over before it goes (maxSurge), hence the host's
// network, and no hostPort: the scheduler would keep the successor waiting.

const (
	// FrontendDir is the folder with the mirror's socket, in the mirror's data.
	FrontendDir = "frontend"
	// frontendDrain is how long downloads through a frontend may go on when it
	// is replaced.
	frontendDrain = 2 * time.Minute
)

// How long a mirror that does not run is waited for. containerd gives up after
// 30 s without an answer, and gets the reason before that; a client with another
// registry to ask is sent there soon.
const (
	waitStrict   = 25 * time.Second
	waitFallback = 5 * time.Second
)

// FrontendName is the DaemonSet that holds a mirror's port.
func FrontendName(n *v1alpha1.PyrsiaNode) string { return n.Name + objects.SuffixFrontend }

// FrontendDaemonSet holds the mirror's port on each Kubernetes node.
func FrontendDaemonSet(n *v1alpha1.PyrsiaNode, in Inputs) *appsac.DaemonSetApplyConfiguration {
	mirror := MirrorSpec(n)
	wait := waitStrict
	if mirror.Containerd == v1alpha1.ContainerdFallback {
		wait = waitFallback
	}
	args := []string{"frontend", "--listen", loopback(mirror.Port), "--dir", "/sockets", "--wait", wait.String(), "--drain", frontendDrain.String()}
	if mirror.Containerd != v1alpha1.ContainerdUnmanaged {
		args = append(args, "--canary", string(n.UID))
	}
	// Where the mirror's pod is not replaced yet, containerd asks at the port before.
	for _, port := range in.Former {
		args = append(args, "--former", loopback(port))
	}
	// The mirror may put a link in place of the folder with its socket: the host
	// would follow one in a volume's path, and does not in a subPath.
	sockets := coreac.VolumeMount().WithName("sockets").WithMountPath("/sockets").WithSubPath(FrontendDir)
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithHostNetwork(true).
		WithTerminationGracePeriodSeconds(int64((frontendDrain + 20*time.Second).Seconds())).
		WithSecurityContext(coreac.PodSecurityContext().
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithVolumes(hostVolume("sockets", in.Host.Folder)).
		// The whole folder, because the file with its owner is at the top.
		WithInitContainers(claimContainer(n, in, "sockets").WithResources(little())).
		WithContainers(coreac.Container().WithName("frontend").
			// The operator's own, whatever spec.image is: it must be able to prove to
			// the operator's set-up of containerd whose port it holds; and it is on the
			// host's network.
			WithImage(in.Image).
			WithImagePullPolicy(corev1.PullIfNotPresent).
			WithArgs(args...).
			// What it says when it fails is what the condition says.
			WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
			WithResources(little()).
			WithSecurityContext(restricted()).
			WithVolumeMounts(sockets))
	withPlace(spec, n, in)
	return appsac.DaemonSet(FrontendName(n), n.Namespace).
		WithLabels(objects.Labels(n, "frontend")).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(objects.Labels(n, "frontend"))).
			WithMinReadySeconds(3).
			WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().
				WithRollingUpdate(appsac.RollingUpdateDaemonSet().
					WithMaxSurge(intstr.FromString("25%")).WithMaxUnavailable(intstr.FromInt32(0)))).
			WithTemplate(coreac.PodTemplateSpec().
				WithLabels(objects.Labels(n, "frontend")).
				WithAnnotations(n.Spec.PodAnnotations).
				WithSpec(spec)))
}

func loopback(port int32) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// little is what a container needs that does next to nothing.
func little() *coreac.ResourceRequirementsApplyConfiguration {
	return coreac.ResourceRequirements().WithRequests(corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("10m"),
		corev1.ResourceMemory: resource.MustParse("32Mi"),
	})
}
