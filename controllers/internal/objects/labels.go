package objects

import (
	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// FieldOwner is the operator's name as a field manager, and the value of the
// label on all that it makes.
const FieldOwner = "pyrsia-operator"

// The names of what is made for a PyrsiaNode are its own, and its own with these.
const (
	SuffixFrontend = "-frontend"
	SuffixCleanup  = "-cleanup"
	SuffixExposure = "-p2p"
)

// An administrator puts this label on a namespace to let PyrsiaNodes in it reach
// the Kubernetes nodes. Rights inside a namespace do not include setting its
// labels.
const (
	LabelMirrors   = "pyrsia.io/mirrors"
	MirrorsAllowed = "allowed"
)

// The labels of all that belongs to a PyrsiaNode
// (kubernetes.io/docs/concepts/overview/working-with-objects/common-labels).
const (
	labelName      = "app.kubernetes.io/name"
	LabelInstance  = "app.kubernetes.io/instance"
	labelComponent = "app.kubernetes.io/component"
	LabelManagedBy = "app.kubernetes.io/managed-by"
)

// ContainerNode is the container of the node itself.
const ContainerNode = "node"

// Labels are those of what is made for a component of a PyrsiaNode.
func Labels(n *v1alpha1.PyrsiaNode, component string) map[string]string {
	return map[string]string{
		labelName:      "pyrsia",
		LabelInstance:  n.Name,
		labelComponent: component,
		LabelManagedBy: FieldOwner,
	}
}

// Component is that of a PyrsiaNode's own pods.
func Component(n *v1alpha1.PyrsiaNode) string {
	if n.Spec.Role == v1alpha1.RolePublisher {
		return "publisher"
	}
	return "mirror"
}

const (
	// ContainerCanary is the container that runs where containerd asks the mirror.
	ContainerCanary = "canary"
	// ContainerKeep writes again what others change of the set-up.
	ContainerKeep = "keep"
)

// AnnotationPath on a pod of the clean-up is the path that it restores.
const AnnotationPath = "pyrsia.io/containerd-config-path"

const (
	// ContainerSetUp is the container that sets containerd up on a Kubernetes node,
	// or puts it back.
	ContainerSetUp = "containerd"
	// ContainerGuard puts it back before the mirror starts, if another process has
	// the mirror's port: the mirror may take long, or not get ready at all.
	ContainerGuard = "guard"
)

// OnPull tells whether a publisher publishes what is pulled from it.
func OnPull(n *v1alpha1.PyrsiaNode) bool {
	return n.Spec.Publisher != nil && n.Spec.Publisher.OnPull != nil && n.Spec.Publisher.OnPull.Policy == v1alpha1.OnPullPublish
}
