package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Role is what a PyrsiaNode does in its network.
// +kubebuilder:validation:Enum=Publisher;Mirror
type Role string

// The roles of a PyrsiaNode.
const (
	RolePublisher Role = "Publisher"
	RoleMirror    Role = "Mirror"
)

// ContainerdMode is how strictly containerd depends on the mirror.
// +kubebuilder:validation:Enum=Strict;Fallback;Unmanaged
type ContainerdMode string

// The modes of containerd.
const (
	ContainerdStrict    ContainerdMode = "Strict"
	ContainerdFallback  ContainerdMode = "Fallback"
	ContainerdUnmanaged ContainerdMode = "Unmanaged"
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

// Mirror configures the role Mirror.
// +kubebuilder:validation:XValidation:rule="!has(self.registries) || !has(self.containerd) || self.containerd != 'Strict' || !self.registries.exists(r, r == '_default')",message="registries: _default cannot be Strict, which would keep the Kubernetes nodes from the images of their own system: name the registries that are to be strict, or set containerd: Fallback"
// +kubebuilder:validation:XValidation:rule="!has(self.distribution) || !has(self.containerdConfigPath) || self.containerdConfigPath == '/etc/containerd/certs.d'",message="distribution picks the folder: leave containerdConfigPath out"
// +kubebuilder:validation:XValidation:rule="!has(self.distribution) || !(self.distribution in ['Bottlerocket', 'GKE', 'OpenShift', 'Talos']) || has(self.containerd) && self.containerd == 'Unmanaged'",message="no mirror can set containerd up on Bottlerocket, GKE, OpenShift or Talos: set containerd: Unmanaged, and do what docs/distributions.md says"
// +kubebuilder:validation:XValidation:rule="!has(self.startupTaint) || !self.startupTaint || !has(self.containerd) || self.containerd != 'Unmanaged'",message="startupTaint needs containerd: Strict or Fallback: where containerd is not set up, nothing is ever proven",fieldPath=".startupTaint"
type Mirror struct {
	// registries are the registries that containerd asks the mirror for; _default
	// stands for all that have no set-up of their own on the Kubernetes node, and
	// cannot be Strict.
	// +kubebuilder:default={"docker.io"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^(_default|[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?)$`
	// +listType=set
	// +optional
	Registries []string `json:"registries,omitempty"`

	// port is where the mirror listens, on the loopback address of each
	// Kubernetes node: one of those that the operator is told (1024 to 65535 unless
	// it is told others), which no mirror of another namespace has in the cluster.
	// +kubebuilder:default=5001
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port int32 `json:"port,omitempty"`

	// containerd says what the operator does with containerd on each Kubernetes
	// node. Strict: the registries are reached through the mirrors alone, so that
	// only images on the ledger can be pulled; other registries are not touched.
	// Fallback: the mirrors are asked first, then what was set up before, or the
	// registry. Unmanaged:
	// containerd's configuration is left as it is. It is set up when the mirror
	// on that node is ready, without a restart of containerd, and put back when
	// the PyrsiaNode is deleted. A namespace with such PyrsiaNodes is not deleted
	// before they are: in one that is going nothing can be put back.
	// +kubebuilder:default=Strict
	// +optional
	Containerd ContainerdMode `json:"containerd,omitempty"`

	// containerdConfigPath is containerd's registry configuration directory
	// (its config_path setting): one of those that the operator is told.
	// +kubebuilder:default=/etc/containerd/certs.d
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9_./-]+$`
	// +kubebuilder:validation:XValidation:rule="!self.split('/').exists(s, s == '..')",message="containerdConfigPath must not contain '..'"
	// +optional
	ContainerdConfigPath string `json:"containerdConfigPath,omitempty"`

	// distribution is that of the Kubernetes nodes. It picks the folder in which
	// containerd is set up, in place of containerdConfigPath. docs/distributions.md
	// says what each one needs, what removes the set-up there, and what to do where
	// no mirror can write it.
	// +kubebuilder:validation:Enum=AKS;Bottlerocket;EKS;GKE;K0s;K3s;Kind;Kubeadm;MicroK8s;Minikube;OpenShift;RKE2;Talos
	// +optional
	Distribution string `json:"distribution,omitempty"`

	// maxLedgerAge has the pods refuse to resolve tags when the publisher has not
	// signed the ledger for longer than that: a tag may have moved since, or what
	// it leads to have been withdrawn. What is pulled by digest is served. When it
	// is unset, tags are resolved however old the ledger is, and LedgerStale is
	// raised after an hour. A publisher signs every minute.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=duration
	// +kubebuilder:validation:XValidation:rule="self >= duration('5m')",message="maxLedgerAge must be 5m or longer"
	// +optional
	MaxLedgerAge *metav1.Duration `json:"maxLedgerAge,omitempty"`

	// prefetch are patterns of the images that every pod of the mirror fetches
	// as soon as they are published, for its own platform, such as "alpine:*" or
	// "bitnami/*:*"; * stands for any characters but '/'. The newest images come
	// first, and take at most half of cacheSize.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9_./:*?-]+$`
	// +listType=set
	// +optional
	Prefetch []string `json:"prefetch,omitempty"`

	// maxUnavailable is on how many Kubernetes nodes the mirror may be replaced at
	// the same time when it is rolled out: a number, or a share of them in percent,
	// rounded up. What is pulled there meanwhile waits for the mirror.
	// +kubebuilder:default="10%"
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=4
	// +kubebuilder:validation:XValidation:rule="type(self) == string ? self.matches('^(100|[1-9][0-9]?)%$') : self >= 1",message="maxUnavailable must be a number from 1, or a percentage from 1% to 100%"
	// +optional
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// startupTaint has the operator take the taint pyrsia.io/mirror-not-proven from
	// a Kubernetes node when this mirror is proven there, and all others that say so
	// and are for the node. Machines that join with the taint run no pods before
	// that, but static ones and those that tolerate it. It is not put back. The
	// operator needs a right for it, which the chart's value startupTaint.enabled
	// gives: see docs/new-nodes.md.
	// +optional
	StartupTaint bool `json:"startupTaint,omitempty"`
}

// PyrsiaNodeStatus is the observed state of a PyrsiaNode.
type PyrsiaNodeStatus struct {
	// observedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are the steps KeysReady, NetworkReady, WorkloadReady,
	// LedgerVerified and, of a mirror that manages containerd,
	// ContainerdUsesMirror, and Ready, which sums them up; NodesCovered of a mirror.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// ledger is what the operator has verified of the node's ledger; of a
	// mirror, what all its ready pods have.
	// +optional
	Ledger *LedgerStatus `json:"ledger,omitempty"`

	// keyGeneration is the generation of the key that signs a publisher's ledger;
	// it is behind spec.publisher.keyGeneration while the key is rotated.
	// +optional
	KeyGeneration int32 `json:"keyGeneration,omitempty"`

	// keyRotation is the last rotation of a publisher's key that
	// spec.publisher.keyGeneration has asked for. The mirrors of its namespace raise
	// no alarm about its key.
	// +optional
	KeyRotation *KeyRotation `json:"keyRotation,omitempty"`

	// peerID is the libp2p identity of a publisher.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	PeerID string `json:"peerID,omitempty"`

	// bootstrap are the multiaddrs at which nodes of the same cluster join a
	// publisher's network.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	// +optional
	Bootstrap []string `json:"bootstrap,omitempty"`

	// addresses are the multiaddrs at which nodes outside of the cluster join, if
	// the node is exposed: other clusters, by spec.network.bootstrap, and single
	// machines, by 'pyrsia node --bootstrap'. They go with status.ledger.key. Of a
	// mirror they are those of its first pods.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	// +optional
	Addresses []string `json:"addresses,omitempty"`

	// peers is how many other nodes the pod is connected to that has the fewest.
	// Of more than eight it is not exact.
	// +optional
	Peers int32 `json:"peers"`

	// nodes counts the pods of the node.
	// +optional
	Nodes *NodeCounts `json:"nodes,omitempty"`

	// containerd is where a mirror has set containerd up. What falls out of the
	// spec, because nodeSelector, a label or containerdConfigPath changed, or the
	// PyrsiaNode goes, stays here until the user's own set-up is back.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=path
	// +optional
	Containerd []ContainerdSetup `json:"containerd,omitempty"`
}

// ContainerdSetup is where a mirror has set containerd up.
type ContainerdSetup struct {
	// path is containerd's registry configuration directory.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +required
	Path string `json:"path,omitempty"`

	// nodes are the names of the Kubernetes nodes.
	// +kubebuilder:validation:MaxItems=5000
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	Nodes []string `json:"nodes,omitempty"`
}

// KeyRotation is a hand-over of the ledger to another key.
type KeyRotation struct {
	// key is the verifier key to which the ledger was handed over.
	// +kubebuilder:validation:MaxLength=320
	// +required
	Key string `json:"key,omitempty"`

	// recordedAt is when the operator saw it on the ledger. The key before signs
	// beside the new one for a day from then on, and until the mirrors of
	// its namespace follow the new one, but for at most seven days.
	// +required
	RecordedAt metav1.Time `json:"recordedAt,omitzero"`
}

// LedgerStatus is a verified state of the ledger.
type LedgerStatus struct {
	// key is the ledger's verifier key (c2sp.org/signed-note). Once set it
	// changes only to one that the ledger proves to follow.
	// +kubebuilder:validation:MaxLength=320
	// +optional
	Key string `json:"key,omitempty"`

	// newestKey is the key that readers should pin: the one to which the ledger was
	// handed over last, as all ready pods have verified. It is another than key
	// while both sign.
	// +kubebuilder:validation:MaxLength=320
	// +optional
	NewestKey string `json:"newestKey,omitempty"`

	// size is the number of blocks.
	// +optional
	Size int64 `json:"size"`

	// rootHash is the Merkle root over all blocks, in base64.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	RootHash string `json:"rootHash,omitempty"`

	// signedAt is when the publisher signed the checkpoint, by its clock: when
	// the ledger grew last. A publisher that has stopped to sign is told by the
	// condition LedgerStale.
	// +optional
	SignedAt *metav1.Time `json:"signedAt,omitempty"`

	// checkpoint is the newest signed checkpoint that the operator has
	// verified (c2sp.org/tlog-checkpoint). A publisher that does not extend it
	// is not asked to publish.
	// +kubebuilder:validation:MaxLength=98304
	// +optional
	Checkpoint string `json:"checkpoint,omitempty"`
}

// NodeCounts counts pods, and of a mirror the Kubernetes nodes.
type NodeCounts struct {
	// total is the number of Kubernetes nodes that a mirror is for: those of Linux
	// that are not virtual, and among these the ones that spec.nodeSelector and
	// spec.affinity choose. It is not counted where the operator works in named
	// namespaces alone, and may not read Kubernetes nodes.
	// +optional
	Total int32 `json:"total,omitempty"`

	// covered is the number of those on which a pod of the mirror was placed. The
	// condition NodesCovered names the others.
	// +optional
	Covered int32 `json:"covered,omitempty"`

	// desired is the number of pods that should run.
	// +optional
	Desired int32 `json:"desired"`

	// ready is the number of pods that are ready. A mirror's pod is also while
	// the proof is missing that containerd uses it.
	// +optional
	Ready int32 `json:"ready"`

	// configured is the number of Kubernetes nodes on which the mirror has set
	// containerd up.
	// +optional
	Configured int32 `json:"configured"`

	// proven is the number of Kubernetes nodes on which containerd has shown that
	// it uses the mirror: it has pulled what it can get from this mirror alone,
	// since it was started.
	// +optional
	Proven int32 `json:"proven"`
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
