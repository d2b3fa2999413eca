package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
