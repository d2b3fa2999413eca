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

// ContainerdMode is how strictly containerd depends on the mirror.
// +kubebuilder:validation:Enum=Strict;Fallback;Unmanaged
type ContainerdMode string

// The modes of containerd.
const (
	ContainerdStrict    ContainerdMode = "Strict"
	ContainerdFallback  ContainerdMode = "Fallback"
	ContainerdUnmanaged ContainerdMode = "Unmanaged"
)

// PyrsiaNodeSpec is the wanted state of a PyrsiaNode.
// +kubebuilder:validation:XValidation:rule="self.role == oldSelf.role",message="role cannot be changed: make another PyrsiaNode",fieldPath=".role"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.publisher)",message="publisher is for role Publisher only",fieldPath=".publisher"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.mirror)",message="mirror is for role Mirror only",fieldPath=".mirror"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.cacheSize)",message="cacheSize is for role Mirror only: a publisher keeps all that it publishes",fieldPath=".cacheSize"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || has(self.network) && has(self.network.publisherRef) != has(self.network.ledgerKey)",message="a mirror needs exactly one root of trust: network.publisherRef, or network.ledgerKey with bootstrap",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.network) || !has(self.network.publisherRef) && !has(self.network.ledgerKey)",message="a publisher joins no network: it starts its own, which network.exposure may open to others",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.network) || !has(self.network.exposure) || self.network.exposure.type == 'HostPort' && !has(self.network.exposure.addresses)",message="a mirror has a pod on each Kubernetes node: it can be exposed by HostPort alone, and each pod by its node's own address",fieldPath=".network.exposure"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || !has(self.storage.hostPath)",message="hostPath is for role Mirror only: a publisher has a volume",fieldPath=".storage.hostPath"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.storage.storageClassName)",message="storageClassName is for role Publisher only: mirrors keep their cache on the host",fieldPath=".storage.storageClassName"
// +kubebuilder:validation:XValidation:rule="self.role == 'Publisher' || !has(self.storage.size)",message="size is for role Publisher only: set cacheSize for a mirror",fieldPath=".storage.size"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || [0, 1].exists(step, (has(self.publisher) ? self.publisher.keyGeneration : 1) - (has(oldSelf.publisher) ? oldSelf.publisher.keyGeneration : 1) == step)",message="keyGeneration can only be raised, by one at a time",fieldPath=".publisher"
// +kubebuilder:validation:XValidation:rule="self.role == 'Mirror' || self.storage == oldSelf.storage",message="storage of a publisher cannot be changed: resize its PersistentVolumeClaim",fieldPath=".storage"
type PyrsiaNodeSpec struct {
	// role is what the node does. A Publisher copies images from upstream
	// registries and records them on the ledger that it signs. A Mirror runs on
	// each Kubernetes node, follows the ledger and serves what it vouches for.
	// +required
	Role Role `json:"role,omitempty"`

	// image is the container image of the node. The operator's own default
	// applies when it is empty.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Image string `json:"image,omitempty"`

	// storage is where the node keeps the ledger and the images.
	// +kubebuilder:default={}
	// +optional
	Storage Storage `json:"storage,omitzero"`

	// cacheSize is how much disk a mirror uses for images, on each Kubernetes
	// node; what was used longest ago goes first. The default is 10Gi.
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

	// pullHistory bounds the Artifacts that the operator makes of images which
	// are pulled through the node and have none yet: a mirror, or a publisher
	// whose onPull is Publish.
	// +kubebuilder:default={}
	// +optional
	PullHistory PullHistory `json:"pullHistory,omitzero"`

	// resources are the compute resources of the node's container.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// nodeSelector chooses the Kubernetes nodes on which the pods run.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations let the pods run on tainted Kubernetes nodes.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// affinity chooses the Kubernetes nodes on which the pods run by more than
	// labels that must be there.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// priorityClassName is the PriorityClass of the pods. For a mirror with
	// containerd: Strict, system-node-critical keeps it from being evicted
	// before what it serves; some clusters admit that class in namespaces with
	// a ResourceQuota for it alone.
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
	// the like.
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

	// hostPath is the directory in which a mirror keeps its data, on each
	// Kubernetes node. The default is /var/lib/pyrsia/NAMESPACE-NAME.
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

// Publisher configures the role Publisher.
type Publisher struct {
	// signingKeySecretRef names the Secret that holds the ledger's signing key
	// under "signing.key", as 'pyrsia keygen' writes it. When it is unset, the
	// operator makes the Secret NAME-signing-key once. It never overwrites, reads
	// or deletes it: keep a copy, as a lost key ends the ledger.
	// +optional
	SigningKeySecretRef *LocalReference `json:"signingKeySecretRef,omitempty"`

	// keyGeneration counts the ledger's signing keys. Raise it by one to rotate
	// the key: the operator makes the Secret of the next one, which has the
	// generation in its name (NAME-signing-key-2, or the name in
	// signingKeySecretRef and -2) unless you have made it, lets both keys sign
	// until the ledger records that the second one follows, and then that one
	// alone. Whoever trusts the key before follows by itself: mirrors, other
	// clusters and kept proofs go on to verify. status.keyGeneration tells when it
	// is done.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	KeyGeneration int32 `json:"keyGeneration,omitempty"`

	// restoreFrom gives a publisher whose volume was lost, or is an older copy,
	// its ledger back: at each start, what other nodes have beyond its own is
	// copied and verified by the publisher's key, before it signs anything.
	// Content comes back when it is published again, under the blocks that are
	// there. A publisher that has a ledger starts also when none of them answers.
	// +optional
	RestoreFrom *RestoreFrom `json:"restoreFrom,omitempty"`

	// upstreams say where to copy images from; a registry that is not listed
	// is asked at its own address.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=registry
	// +optional
	Upstreams []Upstream `json:"upstreams,omitempty"`

	// concurrency is how many images are copied at once. Those of one repository
	// get half of it at most, so that a slow one does not hold up the others.
	// +kubebuilder:default=8
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=64
	// +optional
	Concurrency int32 `json:"concurrency,omitempty"`

	// upstreamBandwidth bounds what is copied from all upstreams together, in
	// bytes per second, such as 50Mi. There is no bound by default.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 131072 : quantity(self).compareTo(quantity('128Ki')) >= 0",message="upstreamBandwidth must be 128Ki or more, in bytes per second"
	// +optional
	UpstreamBandwidth *resource.Quantity `json:"upstreamBandwidth,omitempty"`

	// onPull says what happens when a client pulls an image from the publisher
	// that is not on the ledger.
	// +optional
	OnPull *OnPull `json:"onPull,omitempty"`
}

// RestoreFrom names copies of a ledger. The largest one counts: give all that
// you have.
// +kubebuilder:validation:XValidation:rule="has(self.mirrorRef) || has(self.urls)",message="give mirrorRef, urls, or both"
type RestoreFrom struct {
	// mirrorRef names a mirror in the same namespace: all its pods are asked.
	// +optional
	MirrorRef *LocalReference `json:"mirrorRef,omitempty"`

	// urls are those of the open ports of other nodes, such as
	// http://192.0.2.7:8080.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^https?://[^\s/]+(/[^\s]*)?$`
	// +listType=set
	// +optional
	URLs []string `json:"urls,omitempty"`
}

// Upstream is where the images of one registry are copied from.
type Upstream struct {
	// registry is the registry as it stands in image names.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`
	// +required
	Registry string `json:"registry,omitempty"`

	// endpoint is the URL that is asked in its place, such as
	// https://registry-1.docker.io.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="endpoint must be an http or https URL"
	// +required
	Endpoint string `json:"endpoint,omitempty"`

	// credentialsSecretRef names a Secret with credentials for the registry: of
	// type kubernetes.io/basic-auth or kubernetes.io/dockerconfigjson. The
	// publisher's pod mounts it; the operator cannot read it. Changes of it are
	// taken up without a restart.
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`

	// caSecretRef names a Secret whose key "ca.crt" holds the certificates (PEM)
	// that the registry's own may be signed by, besides the public ones.
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`
}

// OnPullPolicy is what a publisher does when an image is pulled from it that
// is not on the ledger.
// +kubebuilder:validation:Enum=Refuse;Publish
type OnPullPolicy string

// The policies of a publisher for pulls.
const (
	OnPullRefuse  OnPullPolicy = "Refuse"
	OnPullPublish OnPullPolicy = "Publish"
)

// OnPull configures a publisher for pulls.
// +kubebuilder:validation:XValidation:rule="self.policy != 'Publish' || has(self.allow)",message="allow must name the images that may be published on pull",fieldPath=".allow"
type OnPull struct {
	// policy is Refuse, or Publish to fetch the image from its upstream, publish
	// it and then serve it. Only publishers ever do that, at their registry port
	// 5001; mirrors refuse what is not on the ledger.
	// +kubebuilder:default=Refuse
	// +optional
	Policy OnPullPolicy `json:"policy,omitempty"`

	// allow are patterns of the images that are published, such as "alpine:*" or
	// "bitnami/*:*"; * stands for any characters but '/'.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	// +optional
	Allow []string `json:"allow,omitempty"`

	// perHour bounds how many images are published on pull in an hour.
	// +kubebuilder:default=20
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	PerHour int32 `json:"perHour,omitempty"`
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
type Mirror struct {
	// registries are the registries that containerd asks the mirror for.
	// +kubebuilder:default={"docker.io"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`
	// +listType=set
	// +optional
	Registries []string `json:"registries,omitempty"`

	// port is where the mirror listens, on the loopback address of each
	// Kubernetes node.
	// +kubebuilder:default=5001
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port int32 `json:"port,omitempty"`

	// containerd says what the operator does with containerd on each Kubernetes
	// node. Strict: the registries are reached through the mirrors alone, so that
	// only images on the ledger can be pulled; other registries are not touched.
	// Fallback: the mirrors are asked first, then the registry. Unmanaged:
	// containerd's configuration is left as it is. It is set up when the mirror
	// on that node is ready, without a restart of containerd, and put back when
	// the PyrsiaNode is deleted. Delete it before its namespace: in one that is
	// going nothing can be put back.
	// +kubebuilder:default=Strict
	// +optional
	Containerd ContainerdMode `json:"containerd,omitempty"`

	// containerdConfigPath is containerd's registry configuration directory
	// (its config_path setting).
	// +kubebuilder:default=/etc/containerd/certs.d
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9_./-]+$`
	// +kubebuilder:validation:XValidation:rule="!self.split('/').exists(s, s == '..')",message="containerdConfigPath must not contain '..'"
	// +optional
	ContainerdConfigPath string `json:"containerdConfigPath,omitempty"`

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
}

// PyrsiaNodeStatus is the observed state of a PyrsiaNode.
type PyrsiaNodeStatus struct {
	// observedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are the steps KeysReady, NetworkReady, WorkloadReady and
	// LedgerVerified, and Ready, which sums them up.
	// +kubebuilder:validation:MaxItems=16
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
}

// LedgerStatus is a verified state of the ledger.
type LedgerStatus struct {
	// key is the ledger's verifier key (c2sp.org/signed-note). Once set it
	// changes only to one that the ledger proves to follow.
	// +kubebuilder:validation:MaxLength=320
	// +optional
	Key string `json:"key,omitempty"`

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
	// +kubebuilder:validation:MaxLength=16384
	// +optional
	Checkpoint string `json:"checkpoint,omitempty"`
}

// NodeCounts counts pods.
type NodeCounts struct {
	// desired is the number of pods that should run.
	// +optional
	Desired int32 `json:"desired"`

	// ready is the number of pods that are ready.
	// +optional
	Ready int32 `json:"ready"`

	// configured is the number of Kubernetes nodes on which the mirror has set
	// containerd up.
	// +optional
	Configured int32 `json:"configured"`
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

	// spec is the wanted state.
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
