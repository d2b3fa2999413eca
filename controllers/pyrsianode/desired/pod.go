// Package desired holds the objects that a PyrsiaNode is to have in the cluster: pure
// functions of its spec and of some facts, with golden files.
// It imports the API, objects, node/control, node/canary, node/distributions and
// node/ledger. The controller of PyrsiaNodes calls it.
package desired

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
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/distributions"
)

// The ports of a node's container.
const (
	PortP2P    = 4001
	PortOpen   = 8080
	PortMirror = 5001
)

// nodeUser is the user and group of the node's image.
const nodeUser = 65532

// Inputs are the facts, other than the PyrsiaNode itself, that its pods
// depend on.
type Inputs struct {
	Image     string // the operator's own, of containers that run as root or reach the host, and of the others by default
	Host      HostClaim
	Former    []int32 // mirrors: ports at which containerd may still ask
	LedgerKey string  // mirrors: the key to trust
	Bootstrap []string
	Outside   Outside
	// EveryNode has a mirror's pods stand on each Linux machine, unless the spec
	// says otherwise.
	EveryNode bool
	Pods      []corev1.Pod // as they are; roll-outs depend on them alone
}

func ownerReference(n *v1alpha1.PyrsiaNode) *metaac.OwnerReferenceApplyConfiguration {
	return metaac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind("PyrsiaNode").
		WithName(n.Name).WithUID(n.UID).
		WithController(true).WithBlockOwnerDeletion(true)
}

// ControlSecretName is the Secret with a node's half of the control API.
func ControlSecretName(n *v1alpha1.PyrsiaNode) string { return n.Name + "-control" }

// SigningSecretName is the Secret of a generation of the signing key.
func SigningSecretName(n *v1alpha1.PyrsiaNode, generation int32) string {
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
func podTemplate(n *v1alpha1.PyrsiaNode, in Inputs, args []string) *coreac.PodTemplateSpecApplyConfiguration {
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithSecurityContext(coreac.PodSecurityContext().
			WithFSGroup(nodeUser).
			WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(nodeContainer(n, in, args)).
		WithVolumes(coreac.Volume().WithName("keys").
			WithSecret(coreac.SecretVolumeSource().WithSecretName(ControlSecretName(n)).WithDefaultMode(0o440)))
	withPlace(spec, n, in)
	template := coreac.PodTemplateSpec().
		WithLabels(objects.Labels(n, objects.Component(n))).
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

func nodeContainer(n *v1alpha1.PyrsiaNode, in Inputs, args []string) *coreac.ContainerApplyConfiguration {
	common := []string{
		"node", "--role", string(n.Spec.Role), "--data", "/data",
		"--p2p-port", fmt.Sprint(PortP2P), "--open-addr", fmt.Sprintf(":%d", PortOpen),
		"--control-addr", fmt.Sprintf(":%d", control.Port),
		"--control-key", "/keys/" + NodeKeyFile, "--operator-key", "/keys/" + OperatorKeyFile,
	}
	common = append(common, bandwidthArgs(n)...)
	common = append(common, in.Outside.announceArgs()...)
	p2p := coreac.ContainerPort().WithName("p2p").WithContainerPort(PortP2P).WithProtocol(corev1.ProtocolTCP)
	if e := Exposure(n); e != nil && e.Type == v1alpha1.ExposureHostPort {
		p2p.WithHostPort(e.Port)
	}
	container := coreac.Container().WithName(objects.ContainerNode)
	if in.Outside.Port != 0 && len(in.Outside.Hosts) == 0 {
		container.WithEnv(coreac.EnvVar().WithName("HOST_IPS").
			WithValueFrom(coreac.EnvVarSource().WithFieldRef(coreac.ObjectFieldSelector().WithAPIVersion("v1").WithFieldPath("status.hostIPs"))))
	}
	return container.
		WithImage(NodeImage(n, in)).
		WithImagePullPolicy(corev1.PullIfNotPresent).
		WithArgs(append(common, args...)...).
		WithPorts(
			p2p,
			coreac.ContainerPort().WithName("open").WithContainerPort(PortOpen).WithProtocol(corev1.ProtocolTCP),
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

// NodeImage is the container image of the node itself.
func NodeImage(n *v1alpha1.PyrsiaNode, in Inputs) string { return cmp.Or(n.Spec.Image, in.Image) }

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
	DefaultHostRoot   = "/var/lib/pyrsia"
	DefaultConfigPath = "/etc/containerd/certs.d"
)

// MirrorSpec fills in the defaults of a mirror that says nothing about itself;
// the API server fills in those of one that says something.
func MirrorSpec(n *v1alpha1.PyrsiaNode) v1alpha1.Mirror {
	var m v1alpha1.Mirror
	if n.Spec.Mirror != nil {
		m = *n.Spec.Mirror
	}
	m.Port = cmp.Or(m.Port, PortMirror)
	m.Containerd = cmp.Or(m.Containerd, v1alpha1.ContainerdStrict)
	m.ContainerdConfigPath = cmp.Or(m.ContainerdConfigPath, DefaultConfigPath)
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

// HostClaim is what a PyrsiaNode has of the Kubernetes nodes. It claims it on all
// of them, wherever its pods run, and ahead of later claims from other
// namespaces: a process with a mirror's folder or port could answer in its place.
// Within a namespace all is in the same hands, and may be shared by mirrors on
// different Kubernetes nodes.
type HostClaim struct {
	Folder string `json:"folder,omitempty"` // of a mirror's data
	Port   int32  `json:"port,omitempty"`   // at which a mirror listens
	// HostPort leads into a pod, also for clients on the machine itself. The
	// scheduler does not place two pods with the same one.
	HostPort int32 `json:"hostPort,omitempty"`
}

// SamePort is a port that two claims cannot both have; 0 if there is none.
func (c HostClaim) SamePort(has HostClaim) int32 {
	switch {
	case c.Port != 0 && (c.Port == has.Port || c.Port == has.HostPort):
		return c.Port
	case c.HostPort != 0 && c.HostPort == has.Port:
		return c.HostPort
	}
	return 0
}
