package controllers

import (
	"fmt"
	"slices"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/canary"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// containerSetUp is the container that sets containerd up on a Kubernetes node,
	// or puts it back.
	containerSetUp = "containerd"
	// containerGuard puts it back before the mirror starts, if another process has
	// the mirror's port: the mirror may take long, or not get ready at all.
	containerGuard = "guard"
)

// manageContainerd sets containerd up on the Kubernetes node of a mirror's pod,
// as soon as the mirror is ready, and not before: the mirror becomes a sidecar
// (kubernetes.io/docs/concepts/workloads/pods/sidecar-containers), and what
// comes after it waits until its startup probe succeeds. The pods only ever set
// up, and keep that: what is wanted no more is put back by pods of its own
// (restoreContainerd). The canary, which comes last, proves that it works.
func manageContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in podInputs, m v1alpha1.Mirror) {
	if m.Containerd == v1alpha1.ContainerdUnmanaged {
		return
	}
	withContainerd(spec, n, in, containerGuard, portArgs(n, m, "guard", guardWait)...)
	mirror := spec.Containers[0]
	mirror.WithRestartPolicy(corev1.ContainerRestartPolicyAlways).
		WithStartupProbe(probe("/readyz").WithPeriodSeconds(1).WithFailureThreshold(startupFailures))
	spec.WithInitContainers(&mirror)
	spec.Containers = nil
	withContainerd(spec, n, in, containerSetUp, installArgs(n, m)...)
	spec.WithContainers(
		containerdContainer(n, in, containerKeep, keepArgs(n, m)...).WithResources(little()),
		canaryContainer(n, m))
	spec.WithVolumes(hostVolume("certs-d", m.ContainerdConfigPath))
	// In it are the secret by which the port proves that it is this mirror's, and
	// the frontend's socket by which it is asked: the machine's loopback address is
	// out of a pod's reach.
	for _, all := range [][]coreac.ContainerApplyConfiguration{spec.InitContainers, spec.Containers} {
		for i, c := range all {
			if *c.Name == containerGuard || *c.Name == containerSetUp || *c.Name == containerKeep {
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
	// handOver is how long the set-up waits for another mirror of the namespace to
	// hand its registries over, before it says again that it does. It is longer than
	// the time after which the kubelet forgets that a container has failed before.
	handOver = 11 * time.Minute
)

func portArgs(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror, command string, wait time.Duration) []string {
	return []string{
		"containerd", command, "--certs-d", "/certs.d", "--owner", setupOwner(n), "--mirror", mirrorURL(m.Port),
		"--port-secret", "/data/" + frontendDir + "/port.secret", "--port-socket", "/data/" + frontendDir + "/port.sock", "--wait", wait.String(),
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
func uninstallArgs(n *v1alpha1.PyrsiaNode, in podInputs) []string {
	return []string{"containerd", "uninstall", "--certs-d", "/certs.d", "--owner", setupOwner(n), "--all", "--mirror", mirrorURL(in.host.Port)}
}

// setupOwner is how a PyrsiaNode's set-up of containerd is told from that of
// another one, also from one of the same name that was there before.
func setupOwner(n *v1alpha1.PyrsiaNode) string {
	return n.Namespace + "/" + n.Name + "/" + string(n.UID)
}

func mirrorURL(port int32) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// withContainerd adds an init container that changes what is in the volume certs-d.
func withContainerd(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in podInputs, name string, args ...string) {
	spec.WithInitContainers(containerdContainer(n, in, name, args...))
}

func containerdContainer(n *v1alpha1.PyrsiaNode, in podInputs, name string, args ...string) *coreac.ContainerApplyConfiguration {
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
func holdContainer(n *v1alpha1.PyrsiaNode, in podInputs) *coreac.ContainerApplyConfiguration {
	return initContainer(n, in, "hold").WithArgs("pause").WithSecurityContext(restricted()).WithResources(little())
}

// cutsItselfOff tells an image of a mirror's own pods and its registry, if a
// strict containerd could pull it through the mirror alone: once the mirror is
// gone, it could never come back.
func cutsItselfOff(n *v1alpha1.PyrsiaNode, in podInputs) (image, registry string) {
	m := mirrorSpec(n)
	if n.Spec.Role != v1alpha1.RoleMirror || m.Containerd != v1alpha1.ContainerdStrict {
		return "", ""
	}
	for _, image := range []string{nodeImage(n, in), in.image} {
		name, err := reference.ParseNormalizedNamed(image)
		if err == nil && slices.ContainsFunc(m.Registries, func(r string) bool { return sameRegistry(r, reference.Domain(name)) }) {
			return image, reference.Domain(name)
		}
	}
	return "", ""
}

// sameRegistry compares registries by the names under which they are known.
func sameRegistry(a, b string) bool {
	canonicalA, err1 := ledger.CanonicalRegistry(a)
	canonicalB, err2 := ledger.CanonicalRegistry(b)
	return err1 == nil && err2 == nil && canonicalA == canonicalB
}

// setUpRefusal tells why the mirror does not run, or cannot set containerd up, on
// the first Kubernetes node where that is refused: another mirror has a registry or
// the folder there, another process has the mirror's port, or of what is set up there
// something could not be kept.
func setUpRefusal(pods []corev1.Pod) (reason, message string) {
	count := 0
	for _, p := range pods {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			ended := s.State.Terminated
			if ended == nil {
				ended = s.LastTerminationState.Terminated // it waits to be started again, or has been
			}
			if ended == nil || !slices.Contains(refusals[ended.ExitCode].containers, s.Name) || s.Name == containerKeep && s.State.Running != nil {
				continue
			}
			if count++; count == 1 {
				refused := refusals[ended.ExitCode]
				reason = refused.reason
				message = fmt.Sprintf("%s on the Kubernetes node %s%s", refused.what, p.Spec.NodeName, lastWords(s))
			}
		}
	}
	if count > 1 {
		message = fmt.Sprintf("on %d Kubernetes nodes; %s", count, message)
	}
	return reason, message
}

// refusals are what a container of a mirror's pods refuses, by its exit status.
var refusals = map[int32]struct {
	containers   []string
	reason, what string
}{
	control.ExitRegistryTaken: {[]string{containerSetUp, containerKeep}, "RegistryTaken", "containerd is not set up"},
	control.ExitPortTaken:     {[]string{containerSetUp, containerKeep}, "PortTaken", "containerd is not set up"},
	control.ExitFolderTaken:   {[]string{containerInitData}, "FolderTaken", "the mirror does not run"},
	control.ExitSetUpRefused:  {[]string{containerSetUp, containerKeep}, "SetUpRefused", "containerd is not set up"},
}
