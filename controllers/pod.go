package controllers

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/distributions"
)

// The labels of all that belongs to a PyrsiaNode
// (kubernetes.io/docs/concepts/overview/working-with-objects/common-labels).
const (
	labelName      = "app.kubernetes.io/name"
	labelInstance  = "app.kubernetes.io/instance"
	labelComponent = "app.kubernetes.io/component"
	labelManagedBy = "app.kubernetes.io/managed-by"
)

// The ports of a node's container.
const (
	portP2P    = 4001
	portOpen   = 8080
	portMirror = 5001
)

// containerNode is the container of the node itself.
const containerNode = "node"

// nodeUser is the user and group of the node's image.
const nodeUser = 65532

// podInputs are the facts, other than the PyrsiaNode itself, that its pods
// depend on.
type podInputs struct {
	image     string // the operator's own, of containers that run as root or reach the host, and of the others by default
	host      hostClaim
	former    []int32 // mirrors: ports at which containerd may still ask
	ledgerKey string  // mirrors: the key to trust
	bootstrap []string
	outside   outside
	// everyNode has a mirror's pods stand on each Linux machine, unless the spec
	// says otherwise.
	everyNode bool
	pods      []corev1.Pod // as they are; roll-outs depend on them alone
}

func labels(n *v1alpha1.PyrsiaNode, component string) map[string]string {
	return map[string]string{
		labelName:      "pyrsia",
		labelInstance:  n.Name,
		labelComponent: component,
		labelManagedBy: fieldOwner,
	}
}

func component(n *v1alpha1.PyrsiaNode) string {
	if n.Spec.Role == v1alpha1.RolePublisher {
		return "publisher"
	}
	return "mirror"
}

func ownerReference(n *v1alpha1.PyrsiaNode) *metaac.OwnerReferenceApplyConfiguration {
	return metaac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind("PyrsiaNode").
		WithName(n.Name).WithUID(n.UID).
		WithController(true).WithBlockOwnerDeletion(true)
}

func controlSecretName(n *v1alpha1.PyrsiaNode) string { return n.Name + "-control" }

// signingSecretName is the Secret of a generation of the signing key.
func signingSecretName(n *v1alpha1.PyrsiaNode, generation int32) string {
	name := n.Name + "-signing-key"
	if p := n.Spec.Publisher; p != nil && p.SigningKeySecretRef != nil {
		name = p.SigningKeySecretRef.Name
	}
	if generation > 1 {
		name += fmt.Sprintf("-%d", generation)
	}
	return name
}

// podTemplate is what the pods of both roles have in common. The namespace of
// a publisher may enforce the Pod Security Standard "restricted".
func podTemplate(n *v1alpha1.PyrsiaNode, in podInputs, args []string) *coreac.PodTemplateSpecApplyConfiguration {
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithSecurityContext(coreac.PodSecurityContext().
			WithFSGroup(nodeUser).
			WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(nodeContainer(n, in, args)).
		WithVolumes(coreac.Volume().WithName("keys").
			WithSecret(coreac.SecretVolumeSource().WithSecretName(controlSecretName(n)).WithDefaultMode(0o440)))
	withPlace(spec, n, in)
	template := coreac.PodTemplateSpec().
		WithLabels(labels(n, component(n))).
		WithAnnotations(n.Spec.PodAnnotations).
		WithSpec(spec)
	return template
}

// asApply is a part of the spec as an apply configuration: both have the same JSON.
func asApply[A any](part any) *A {
	out := new(A)
	data, err := json.Marshal(part)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		panic(fmt.Sprintf("%T as %T: %v", part, out, err)) // it came as JSON from the API server
	}
	return out
}

func nodeContainer(n *v1alpha1.PyrsiaNode, in podInputs, args []string) *coreac.ContainerApplyConfiguration {
	common := []string{
		"node", "--role", string(n.Spec.Role), "--data", "/data",
		"--p2p-port", fmt.Sprint(portP2P), "--open-addr", fmt.Sprintf(":%d", portOpen),
		"--control-addr", fmt.Sprintf(":%d", control.Port),
		"--control-key", "/keys/" + nodeKeyFile, "--operator-key", "/keys/" + operatorKeyFile,
	}
	common = append(common, bandwidthArgs(n)...)
	common = append(common, in.outside.announceArgs()...)
	p2p := coreac.ContainerPort().WithName("p2p").WithContainerPort(portP2P).WithProtocol(corev1.ProtocolTCP)
	if e := exposure(n); e != nil && e.Type == v1alpha1.ExposureHostPort {
		p2p.WithHostPort(e.Port)
	}
	container := coreac.Container().WithName(containerNode)
	if in.outside.port != 0 && len(in.outside.hosts) == 0 {
		container.WithEnv(coreac.EnvVar().WithName("HOST_IPS").
			WithValueFrom(coreac.EnvVarSource().WithFieldRef(coreac.ObjectFieldSelector().WithAPIVersion("v1").WithFieldPath("status.hostIPs"))))
	}
	return container.
		WithImage(nodeImage(n, in)).
		WithImagePullPolicy(corev1.PullIfNotPresent).
		WithArgs(append(common, args...)...).
		WithPorts(
			p2p,
			coreac.ContainerPort().WithName("open").WithContainerPort(portOpen).WithProtocol(corev1.ProtocolTCP),
			coreac.ContainerPort().WithName("control").WithContainerPort(control.Port).WithProtocol(corev1.ProtocolTCP)).
		WithReadinessProbe(probe("/readyz").WithPeriodSeconds(3)).
		WithLivenessProbe(probe("/healthz").WithPeriodSeconds(10).WithFailureThreshold(6)).
		WithResources(resources(n)).
		WithSecurityContext(restricted()).
		WithVolumeMounts(
			coreac.VolumeMount().WithName("data").WithMountPath("/data"),
			coreac.VolumeMount().WithName("keys").WithMountPath("/keys").WithReadOnly(true))
}

func probe(path string) *coreac.ProbeApplyConfiguration {
	return coreac.Probe().WithHTTPGet(coreac.HTTPGetAction().WithPath(path).WithPort(intstr.FromString("open")))
}

func restricted() *coreac.SecurityContextApplyConfiguration {
	return coreac.SecurityContext().
		WithRunAsNonRoot(true).WithRunAsUser(nodeUser).WithRunAsGroup(nodeUser).
		WithAllowPrivilegeEscalation(false).
		WithReadOnlyRootFilesystem(true).
		WithCapabilities(coreac.Capabilities().WithDrop("ALL"))
}

// resources without any set still keep the node from being evicted first.
func resources(n *v1alpha1.PyrsiaNode) *coreac.ResourceRequirementsApplyConfiguration {
	r := n.Spec.Resources
	if r == nil {
		return coreac.ResourceRequirements().WithRequests(corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("50m"),
			corev1.ResourceMemory: resource.MustParse("128Mi"),
		})
	}
	return asApply[coreac.ResourceRequirementsApplyConfiguration](r)
}

func nodeImage(n *v1alpha1.PyrsiaNode, in podInputs) string { return cmp.Or(n.Spec.Image, in.image) }

func bandwidthArgs(n *v1alpha1.PyrsiaNode) (args []string) {
	b := n.Spec.Bandwidth
	if b == nil {
		return nil
	}
	for _, limit := range []struct {
		flag  string
		value *resource.Quantity
	}{{"--upload-limit", b.Upload}, {"--download-limit", b.Download}, {"--peer-limit", b.PerPeer}} {
		if limit.value != nil {
			args = append(args, limit.flag, fmt.Sprint(limit.value.Value()))
		}
	}
	return args
}

const (
	defaultHostRoot   = "/var/lib/pyrsia"
	defaultConfigPath = "/etc/containerd/certs.d"
)

// mirrorSpec fills in the defaults of a mirror that says nothing about itself;
// the API server fills in those of one that says something.
func mirrorSpec(n *v1alpha1.PyrsiaNode) v1alpha1.Mirror {
	var m v1alpha1.Mirror
	if n.Spec.Mirror != nil {
		m = *n.Spec.Mirror
	}
	m.Port = cmp.Or(m.Port, portMirror)
	m.Containerd = cmp.Or(m.Containerd, v1alpha1.ContainerdStrict)
	m.ContainerdConfigPath = cmp.Or(m.ContainerdConfigPath, defaultConfigPath)
	if d, err := distributions.Find(m.Distribution); err == nil {
		m.ContainerdConfigPath = d.CertsD
	}
	if m.MaxUnavailable == nil {
		m.MaxUnavailable = new(intstr.FromString("10%"))
	}
	if len(m.Registries) == 0 {
		m.Registries = []string{"docker.io"}
	}
	m.Registries = slices.Sorted(slices.Values(m.Registries))
	return m
}
