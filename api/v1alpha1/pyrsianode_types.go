package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Role is what a PyrsiaNode does in its network.
// +kubebuilder:validation:Enum=Publisher;Mirror
type Role string

// The roles of a PyrsiaNode.
const (
	RolePublisher Role = "Publisher"
	RoleMirror    Role = "Mirror"
)

// PyrsiaNodeSpec is the desired state of a PyrsiaNode.
// +kubebuilder:validation:XValidation:rule="self.role == oldSelf.role",message="role cannot be changed: make another PyrsiaNode",fieldPath=".role"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.publisher)",message="publisher is for role Publisher only",fieldPath=".publisher"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.mirror)",message="mirror is for role Mirror only",fieldPath=".mirror"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.cacheSize) || has(self.storage.bucket)",message="cacheSize is for mirrors, and for publishers with a bucket: without one, a publisher keeps all that it publishes on its volume",fieldPath=".cacheSize"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || has(self.network) && has(self.network.publisherRef) != has(self.network.ledgerKey)",message="a mirror needs exactly one root of trust: network.publisherRef, or network.ledgerKey with bootstrap",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.network) || !has(self.network.publisherRef) && !has(self.network.ledgerKey)",message="a publisher joins no network: it starts its own, which network.exposure may open to others",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.network) || !has(self.network.exposure) || self.network.exposure.type == 'HostPort' && !has(self.network.exposure.addresses)",message="a mirror has a pod on each Kubernetes node: it can be exposed by HostPort alone, and each pod by its node's own address",fieldPath=".network.exposure"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.storage.hostPath)",message="hostPath is for role Mirror only: a publisher has a volume",fieldPath=".storage.hostPath"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.storage.storageClassName)",message="storageClassName is for role Publisher only: mirrors keep their cache on the host",fieldPath=".storage.storageClassName"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.storage.bucket)",message="bucket is for role Publisher only: what a mirror keeps is a cache",fieldPath=".storage.bucket"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.storage.size)",message="size is for role Publisher only: set cacheSize for a mirror",fieldPath=".storage.size"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || [0, 1].exists(step, (has(self.publisher) ? self.publisher.keyGeneration : 1) - (has(oldSelf.publisher) ? oldSelf.publisher.keyGeneration : 1) == step)",message="keyGeneration can only be raised, by one at a time",fieldPath=".publisher"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || has(self.storage.size) == has(oldSelf.storage.size) && (!has(self.storage.size) || self.storage.size == oldSelf.storage.size) && has(self.storage.storageClassName) == has(oldSelf.storage.storageClassName) && (!has(self.storage.storageClassName) || self.storage.storageClassName == oldSelf.storage.storageClassName)",message="the volume of a publisher cannot be changed: resize its PersistentVolumeClaim",fieldPath=".storage"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.storage.bucket) || has(self.storage.bucket)",message="a bucket cannot be taken away: what was published is there",fieldPath=".storage.bucket"
type PyrsiaNodeSpec struct {
	// role is what the node does. A Publisher copies images from upstream
	// registries and records them on the ledger that it signs. A Mirror runs on
	// each Kubernetes node, follows the ledger and serves what it vouches for.
	// +required
	Role Role `json:"role,omitempty"`

	// image is the container image of the node. The operator's own default
	// applies when it is empty. Containers that run as root or on the host's
	// network have the operator's image, whatever this says.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Image string `json:"image,omitempty"`

	// storage is where the node keeps the ledger and the images.
	// +kubebuilder:default={}
	// +optional
	Storage Storage `json:"storage,omitzero"`

	// cacheSize is how much disk a mirror uses for images, on each Kubernetes
	// node, or a publisher with a bucket on its volume; what was used longest ago
	// goes first. It must hold the largest layer. The default is 10Gi, and half of
	// a publisher's volume.
	// +optional
	CacheSize *resource.Quantity `json:"cacheSize,omitempty"`

	// network is which network a mirror joins, by its one root of trust, and how
	// nodes outside of the cluster reach this one.
	// +optional
	Network *Network `json:"network,omitempty"`

	// bandwidth bounds what each pod exchanges with other nodes. There is no
	// bound by default.
	// +optional
	Bandwidth *Bandwidth `json:"bandwidth,omitempty"`

	// publisher configures the role Publisher.
	// +optional
	Publisher *Publisher `json:"publisher,omitempty"`

	// mirror configures the role Mirror.
	// +optional
	Mirror *Mirror `json:"mirror,omitempty"`

	// acknowledgedAt ends the alarms LedgerForked, LedgerRolledBack,
	// LedgerKeyMisused and LedgerKeyChanged that the pods raise about what they saw
	// until then: set it to the present time once you have looked at it. What they
	// see later is an alarm again. A time that has not come yet counts as now.
	// +optional
	AcknowledgedAt *metav1.Time `json:"acknowledgedAt,omitempty"`

	// pullHistory bounds the Artifacts that the operator makes of images which
	// are pulled through the node and have none yet: a mirror, or a publisher
	// whose onPull is Publish.
	// +kubebuilder:default={}
	// +optional
	PullHistory PullHistory `json:"pullHistory,omitzero"`

	// resources are the compute resources of the node's container.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// nodeSelector chooses the Kubernetes nodes on which the pods run. A mirror
	// adds kubernetes.io/os: linux unless it is told another one.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations let the pods run on tainted Kubernetes nodes. A mirror without
	// any tolerates every taint, so that no node is left out; one that v0.1.0 made
	// goes on without until some are set. The taint of mirror.startupTaint is
	// always tolerated.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// affinity chooses the Kubernetes nodes on which the pods run by more than
	// labels that must be there. It takes at most 32 KiB, together with resources.
	// A mirror without a required nodeAffinity stays away from virtual nodes, which
	// have no containerd: those with the labels of virtual-kubelet, AWS Fargate,
	// Liqo, Tencent's super nodes and KWOK.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// priorityClassName is the PriorityClass of the pods. Without one, any pod with
	// a priority takes a mirror's place when a Kubernetes node is full, and with
	// containerd: Strict nothing can be pulled there then: system-node-critical
	// keeps it. Some clusters admit that class in namespaces with a ResourceQuota
	// for it alone.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	PriorityClassName string `json:"priorityClassName,omitempty"`

	// imagePullSecrets name the Secrets with which the kubelet pulls the node's
	// image, in this namespace.
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	// +optional
	ImagePullSecrets []LocalReference `json:"imagePullSecrets,omitempty"`

	// podAnnotations are put on the pods, for service meshes, log collectors and
	// the like. Those that tell container runtimes what to do are refused.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	PodAnnotations map[string]string `json:"podAnnotations,omitempty"`
}

// Storage is where a node keeps its data.
type Storage struct {
	// size is the size of a publisher's volume. The default is 20Gi.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`

	// storageClassName is the StorageClass of a publisher's volume; the
	// cluster's default class when it is unset.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	StorageClassName *string `json:"storageClassName,omitempty"`

	// bucket keeps a publisher's images in an S3-compatible bucket, for more than a
	// volume holds. The ledger stays on the volume, which is a cache for the
	// images. A publisher can be given a bucket at any time, and uploads what it
	// has. Whoever names another bucket copies the objects there before.
	// +optional
	Bucket *Bucket `json:"bucket,omitempty"`

	// hostPath is the directory in which a mirror keeps its data, on each
	// Kubernetes node: one directly below those that the operator is told
	// (/var/lib/pyrsia unless it is told others), which no mirror of another
	// namespace has. The default is /var/lib/pyrsia/NAMESPACE_NAME; a mirror that
	// v0.1.0 made stays in /var/lib/pyrsia/NAMESPACE-NAME.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9_./-]+$`
	// +kubebuilder:validation:XValidation:rule="!self.split('/').exists(s, s == '..')",message="hostPath must not contain '..'"
	// +optional
	HostPath string `json:"hostPath,omitempty"`
}

// LocalReference names an object in the same namespace.
type LocalReference struct {
	// name is the name of the object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name,omitempty"`
}

// PullHistory bounds the Artifacts of images that were pulled.
type PullHistory struct {
	// limit is how many are kept, those that were pulled last; 0 makes none.
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Limit *int32 `json:"limit,omitempty"`

	// maxAge is how long after its last pull an image is kept.
	// +kubebuilder:default="720h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=duration
	// +kubebuilder:validation:XValidation:rule="self >= duration('1h')",message="maxAge must be 1h or longer"
	// +optional
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`
}

// PyrsiaNode is a publisher, or a mirror on each Kubernetes node, of a Pyrsia
// network.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=pn,categories=pyrsia
// +kubebuilder:printcolumn:name="Role",type=string,JSONPath=`.spec.role`
// +kubebuilder:printcolumn:name="Blocks",type=integer,JSONPath=`.status.ledger.size`
// +kubebuilder:printcolumn:name="Grew",type=date,JSONPath=`.status.ledger.signedAt`,priority=1
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes.ready`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 40",message="the name must be at most 40 lower-case letters, digits and '-', and begin with a letter: Services and pods carry it"
type PyrsiaNode struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the desired state.
	// +required
	Spec PyrsiaNodeSpec `json:"spec,omitzero"`

	// status is the observed state.
	// +kubebuilder:default={"observedGeneration":-1}
	// +optional
	Status PyrsiaNodeStatus `json:"status,omitzero"`
}

// PyrsiaNodeList is a list of PyrsiaNodes.
// +kubebuilder:object:root=true
type PyrsiaNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PyrsiaNode `json:"items"`
}
