package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// The labels of all that belongs to a PyrsiaNode
// (kubernetes.io/docs/concepts/overview/working-with-objects/common-labels).
const (
	labelName      = "app.kubernetes.io/name"
	labelInstance  = "app.kubernetes.io/instance"
	labelComponent = "app.kubernetes.io/component"
	labelManagedBy = "app.kubernetes.io/managed-by"

	// annotationControlKey on a pod template holds the fingerprint of the
	// control keys, so that new keys replace the pods.
	annotationControlKey = "pyrsia.io/control-key"
)

// The ports of a node's container.
const (
	portP2P    = 4001
	portOpen   = 8080
	portMirror = 5001
)

// nodeUser is the user and group of the node's image.
const nodeUser = 65532

// podInputs are the facts, other than the PyrsiaNode itself, that its pods
// depend on.
type podInputs struct {
	image       string // the operator's default
	fingerprint string // of the control keys
	ledgerKey   string // mirrors: the key to trust
	bootstrap   []string
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

func signingSecretName(n *v1alpha1.PyrsiaNode) string {
	if p := n.Spec.Publisher; p != nil && p.SigningKeySecretRef != nil {
		return p.SigningKeySecretRef.Name
	}
	return n.Name + "-signing-key"
}

// podTemplate is what the pods of both roles have in common. The namespace of
// a publisher may enforce the Pod Security Standard "restricted".
func podTemplate(n *v1alpha1.PyrsiaNode, in podInputs, args []string) *coreac.PodTemplateSpecApplyConfiguration {
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithNodeSelector(maps.Clone(n.Spec.NodeSelector)).
		WithSecurityContext(coreac.PodSecurityContext().
			WithFSGroup(nodeUser).
			WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(nodeContainer(n, in, args)).
		WithVolumes(coreac.Volume().WithName("keys").
			WithSecret(coreac.SecretVolumeSource().WithSecretName(controlSecretName(n)).WithDefaultMode(0o440)))
	for _, t := range n.Spec.Tolerations {
		spec.WithTolerations(toleration(t))
	}
	return coreac.PodTemplateSpec().
		WithLabels(labels(n, component(n))).
		WithAnnotations(map[string]string{annotationControlKey: in.fingerprint}).
		WithSpec(spec)
}

func nodeContainer(n *v1alpha1.PyrsiaNode, in podInputs, args []string) *coreac.ContainerApplyConfiguration {
	common := []string{
		"node", "--role", string(n.Spec.Role), "--data", "/data",
		"--p2p-port", fmt.Sprint(portP2P), "--open-addr", fmt.Sprintf(":%d", portOpen),
		"--control-addr", fmt.Sprintf(":%d", control.Port),
		"--control-key", "/keys/" + nodeKeyFile, "--operator-key", "/keys/" + operatorKeyFile,
	}
	probe := func(path string) *coreac.ProbeApplyConfiguration {
		return coreac.Probe().WithHTTPGet(coreac.HTTPGetAction().WithPath(path).WithPort(intstr.FromString("open")))
	}
	return coreac.Container().WithName("node").
		WithImage(cmp.Or(n.Spec.Image, in.image)).
		WithImagePullPolicy(corev1.PullIfNotPresent).
		WithArgs(append(common, args...)...).
		WithPorts(
			coreac.ContainerPort().WithName("p2p").WithContainerPort(portP2P).WithProtocol(corev1.ProtocolTCP),
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
	out := coreac.ResourceRequirements()
	if len(r.Requests) > 0 {
		out.WithRequests(r.Requests)
	}
	if len(r.Limits) > 0 {
		out.WithLimits(r.Limits)
	}
	return out
}

func toleration(t corev1.Toleration) *coreac.TolerationApplyConfiguration {
	out := coreac.Toleration()
	if t.Key != "" {
		out.WithKey(t.Key)
	}
	if t.Operator != "" {
		out.WithOperator(t.Operator)
	}
	if t.Value != "" {
		out.WithValue(t.Value)
	}
	if t.Effect != "" {
		out.WithEffect(t.Effect)
	}
	if t.TolerationSeconds != nil {
		out.WithTolerationSeconds(*t.TolerationSeconds)
	}
	return out
}

// service is headless: it gives the pods names, and nothing in front of them.
func service(n *v1alpha1.PyrsiaNode) *coreac.ServiceApplyConfiguration {
	port := func(name string, number int32) *coreac.ServicePortApplyConfiguration {
		return coreac.ServicePort().WithName(name).WithPort(number).
			WithTargetPort(intstr.FromString(name)).WithProtocol(corev1.ProtocolTCP)
	}
	return coreac.Service(n.Name, n.Namespace).
		WithLabels(labels(n, component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(coreac.ServiceSpec().
			WithClusterIP(corev1.ClusterIPNone).
			WithPublishNotReadyAddresses(true).
			WithSelector(labels(n, component(n))).
			WithPorts(port("p2p", portP2P), port("open", portOpen), port("control", control.Port)))
}

// hostPath is where a mirror keeps its data on each Kubernetes node.
func hostPath(n *v1alpha1.PyrsiaNode) string {
	return cmp.Or(n.Spec.Storage.HostPath, path.Join("/var/lib/pyrsia", n.Namespace+"-"+n.Name))
}

// mirrorSpec fills in the defaults of a mirror that says nothing about itself;
// the API server fills in those of one that says something.
func mirrorSpec(n *v1alpha1.PyrsiaNode) v1alpha1.Mirror {
	var m v1alpha1.Mirror
	if n.Spec.Mirror != nil {
		m = *n.Spec.Mirror
	}
	m.Port = cmp.Or(m.Port, portMirror)
	m.Containerd = cmp.Or(m.Containerd, v1alpha1.ContainerdStrict)
	m.ContainerdConfigPath = cmp.Or(m.ContainerdConfigPath, "/etc/containerd/certs.d")
	if len(m.Registries) == 0 {
		m.Registries = []string{"docker.io"}
	}
	m.Registries = slices.Sorted(slices.Values(m.Registries))
	return m
}
