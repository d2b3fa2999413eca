package desired

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// manageContainerd sets containerd up on the Kubernetes node of a mirror's pod,
// as soon as the mirror is ready, and not before: the mirror becomes a sidecar
// (kubernetes.io/docs/concepts/workloads/pods/sidecar-containers), and what
// comes after it waits until its startup probe succeeds. The pods only ever set
// up, and keep that: other pods (restoreContainerd) undo what is no longer
// desired. The canary, which comes last, proves that it works.
func manageContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in Inputs, m v1alpha1.Mirror) {
	if m.Containerd == v1alpha1.ContainerdUnmanaged {
		return
	}
	withContainerd(spec, n, in, objects.ContainerGuard, portArgs(n, m, "guard", guardWait)...)
	mirror := spec.Containers[0]
	mirror.WithRestartPolicy(corev1.ContainerRestartPolicyAlways).
		WithStartupProbe(probe("/readyz").WithPeriodSeconds(1).WithFailureThreshold(startupFailures))
	spec.WithInitContainers(&mirror)
	spec.Containers = nil
	withContainerd(spec, n, in, objects.ContainerSetUp, installArgs(n, m)...)
	spec.WithContainers(
		containerdContainer(n, in, objects.ContainerKeep, keepArgs(n, m)...).WithResources(little()),
		canaryContainer(n, m))
	spec.WithVolumes(hostVolume("certs-d", m.ContainerdConfigPath))
	// In it are the secret by which the port proves that it is this mirror's, and
	// the frontend's socket by which it is asked: the machine's loopback address is
	// out of a pod's reach.
	for _, all := range [][]coreac.ContainerApplyConfiguration{spec.InitContainers, spec.Containers} {
		for i, c := range all {
			if *c.Name == objects.ContainerGuard || *c.Name == objects.ContainerSetUp || *c.Name == objects.ContainerKeep {
				all[i].WithVolumeMounts(coreac.VolumeMount().WithName("data").WithMountPath("/data").WithReadOnly(true))
			}
		}
	}
}

// startupFailures are the seconds after which a mirror that does not get ready
// is started again.
const startupFailures = 3600

const (
	// portWait is how long the mirror's frontend, which starts at the same time, may
	// take to hold the port; then the container starts again. The guard waits for
	// less: the mirror starts after it.
	portWait  = 30 * time.Second
	guardWait = 10 * time.Second
	// HandOver is how long the set-up waits for another mirror of the namespace to
	// hand its registries over, before it says again that it does. It is longer than
	// the time after which the kubelet forgets that a container has failed before.
	handOver = 11 * time.Minute
)

func portArgs(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror, command string, wait time.Duration) []string {
	return []string{
		"containerd", command, "--certs-d", "/certs.d", "--owner", SetupOwner(n), "--mirror", mirrorURL(m.Port),
		"--port-secret", "/data/" + FrontendDir + "/port.secret", "--port-socket", "/data/" + FrontendDir + "/port.sock", "--wait", wait.String(),
	}
}

func installArgs(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror) []string {
	return append(append(portArgs(n, m, "install", portWait), "--hand-over", handOver.String()), setUpArgs(n, m)...)
}

// keepArgs keep what installArgs have set up.
func keepArgs(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror) []string {
	return append(portArgs(n, m, "keep", portWait), setUpArgs(n, m)...)
}

func setUpArgs(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror) []string {
	args := []string{"--mode", string(m.Containerd)}
	for _, registry := range append(slices.Clone(m.Registries), canary.Registry(string(n.UID))) {
		args = append(args, "--registry", registry)
	}
	return args
}

// uninstallArgs take back all that this PyrsiaNode has set up in a certs.d, and
// of what v0.1.0 wrote, which names no owner, that which names its port.
func uninstallArgs(n *v1alpha1.PyrsiaNode, in Inputs) []string {
	return []string{"containerd", "uninstall", "--certs-d", "/certs.d", "--owner", SetupOwner(n), "--all", "--mirror", mirrorURL(in.Host.Port)}
}

// SetupOwner distinguishes a PyrsiaNode's set-up of containerd from that of
// another one, even from an earlier one with the same name.
func SetupOwner(n *v1alpha1.PyrsiaNode) string {
	return n.Namespace + "/" + n.Name + "/" + string(n.UID)
}

func mirrorURL(port int32) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// withContainerd adds an init container that changes what is in the volume certs-d.
func withContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in Inputs, name string, args ...string) {
	spec.WithInitContainers(containerdContainer(n, in, name, args...))
}

func containerdContainer(n *v1alpha1.PyrsiaNode, in Inputs, name string, args ...string) *coreac.ContainerApplyConfiguration {
	// CHOWN and FOWNER: a hosts.toml keeps its owner. DAC_READ_SEARCH: it may be
	// for its owner alone, as the mirror's secret is.
	return initContainer(n, in, name, "CHOWN", "DAC_READ_SEARCH", "FOWNER").
		WithArgs(args...).
		// What it says when it fails is what the condition says.
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithVolumeMounts(coreac.VolumeMount().WithName("certs-d").WithMountPath("/certs.d"))
}

// holdContainer keeps a pod there whose other containers have done their work
// or are its sidecars.
func holdContainer(n *v1alpha1.PyrsiaNode, in Inputs) *coreac.ContainerApplyConfiguration {
	return initContainer(n, in, "hold").WithArgs("pause").WithSecurityContext(restricted()).WithResources(little())
}
