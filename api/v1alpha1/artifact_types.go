package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ArtifactState is what an Artifact should be.
// +kubebuilder:validation:Enum=Published;Revoked;Restored
type ArtifactState string

// The states of an Artifact.
const (
	StatePublished ArtifactState = "Published"
	StateRevoked   ArtifactState = "Revoked"
	StateRestored  ArtifactState = "Restored"
)

// ArtifactSpec is the desired state of an Artifact.
// +kubebuilder:validation:XValidation:rule="self.image == oldSelf.image && self.digest == oldSelf.digest && has(self.publisherRef) == has(oldSelf.publisherRef) && (!has(self.publisherRef) || self.publisherRef == oldSelf.publisherRef) && has(self.nodeRef) == has(oldSelf.nodeRef) && (!has(self.nodeRef) || self.nodeRef == oldSelf.nodeRef) && has(self.platforms) == has(oldSelf.platforms) && (!has(self.platforms) || self.platforms == oldSelf.platforms) && has(self.pinned) == has(oldSelf.pinned) && (!has(self.pinned) || self.pinned == oldSelf.pinned)",message="an Artifact cannot be changed but for its state: make another one"
// +kubebuilder:validation:XValidation:rule="has(self.publisherRef) != has(self.nodeRef)",message="give exactly one of publisherRef, to have the image published, and nodeRef, to look it up"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeRef) || !has(self.platforms)",message="platforms is for images that are published: a block that is there has those that it has",fieldPath=".platforms"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeRef) || !has(self.pinned)",message="pinned is for images that are published: a block that is there says what it says",fieldPath=".pinned"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeRef) || self.state == 'Published'",message="only the Artifact that published an image can revoke it",fieldPath=".state"
// +kubebuilder:validation:XValidation:rule="self.state == oldSelf.state || self.state != 'Published'",message="what is revoked stays so until it is Restored, which takes the right to restore: publish another digest",fieldPath=".state"
// +kubebuilder:validation:XValidation:rule="self.state != oldSelf.state || !has(oldSelf.reason) || (has(self.reason) && self.reason == oldSelf.reason)",message="the reason is on the ledger for good",fieldPath=".reason"
// +kubebuilder:validation:XValidation:rule="(self.state != 'Published') == has(self.reason)",message="give a reason if, and only if, the state is Revoked or Restored",fieldPath=".reason"
type ArtifactSpec struct {
	// image is the full name of the image: "docker.io/library/alpine:3.20".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('docker.io/') || self.split('/').size() > 2",message="write docker.io/library/NAME:TAG: official images are in library/"
	// +required
	Image string `json:"image,omitempty"`

	// digest is the digest of the image's manifest or index.
	// +kubebuilder:validation:MaxLength=71
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	// +required
	Digest string `json:"digest,omitempty"`

	// publisherRef names the publisher that is to publish the image, a
	// PyrsiaNode in the same namespace.
	// +optional
	PublisherRef LocalReference `json:"publisherRef,omitzero"`

	// nodeRef names a PyrsiaNode in the same namespace on whose ledger the image
	// is looked up, and nothing is published. The operator makes such Artifacts
	// of the images that are pulled through a node: see its spec.pullHistory.
	// +optional
	NodeRef LocalReference `json:"nodeRef,omitzero"`

	// platforms are those to publish, all of them when there are none.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`
	// +listType=set
	// +optional
	Platforms []string `json:"platforms,omitempty"`

	// pinned has the image published although the registry's tag does not point to
	// the digest, which must be one of the same repository. The block records the
	// tag as the publisher's own word, and not as the registry's. It takes the right
	// to "pin" artifacts. What the ledger has is not recorded again: a pin does not
	// move a tag back; and an OfficialImageSet that holds the tag publishes the
	// registry's digest again at its next pass. Mirrors of v0.1.0 do not serve it.
	// +optional
	Pinned bool `json:"pinned,omitempty"`

	// state is Published, or Revoked to withdraw the digest: the ledger records
	// that, and from then on mirrors refuse it, under every tag of the repository.
	// The digest may also be that of one platform's manifest, to withdraw it
	// alone. Restored lifts that, whoever did it, and publishes the image again; to
	// set it takes the verb restore on artifacts.
	// +kubebuilder:default=Published
	// +optional
	State ArtifactState `json:"state,omitempty"`

	// reason tells people why the image is revoked or restored: one line, which
	// becomes part of the ledger.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.size() <= 512 && self.matches('^[^\\x00-\\x1f\\x7f]+$')",message="reason must be one line of at most 512 characters"
	// +optional
	Reason string `json:"reason,omitempty"`
}

// ArtifactStatus is the observed state of an Artifact.
type ArtifactStatus struct {
	// observedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are the steps Published, Verified and Mirrored (with nodeRef
	// not Mirrored; after a revocation the step Revoked alone; where the state is
	// Restored, that step before them), and Ready, which sums them up. An image
	// that another Artifact or, with nodeRef, the ledger withdraws is Revoked, and
	// not Verified any more.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// block is the ledger's entry for the image, with all that is needed to
	// verify it offline.
	// +optional
	Block *Block `json:"block,omitempty"`

	// revocation is the ledger's entry that withdraws the image. Where another
	// Artifact withdrew it, that one has the proof.
	// +optional
	Revocation *Block `json:"revocation,omitempty"`

	// restoration is the ledger's entry that lifts the withdrawal of the image.
	// +optional
	Restoration *Block `json:"restoration,omitempty"`

	// bytes is the size of the image with all its platforms.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`

	// publishedAt is when the publisher recorded the image, as the entry says.
	// +optional
	PublishedAt *metav1.Time `json:"publishedAt,omitempty"`

	// lastPulled is when the image was last pulled through a node of this
	// namespace, by the node's own account. It may be an hour behind.
	// +optional
	LastPulled *metav1.Time `json:"lastPulled,omitempty"`

	// platforms are the platforms for which the image was published.
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	// +optional
	Platforms []string `json:"platforms,omitempty"`
}

// Block is one entry of the ledger with its proof.
type Block struct {
	// height is the index of the entry in the ledger.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Height int64 `json:"height"`

	// hash is the entry's RFC 6962 leaf hash, in hexadecimal.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Hash string `json:"hash,omitempty"`

	// entry is the entry itself: the exact bytes that the hash is of.
	// +kubebuilder:validation:MaxLength=65535
	// +optional
	Entry string `json:"entry,omitempty"`

	// checkpoint is the signed checkpoint under which the entry was proven
	// (c2sp.org/tlog-checkpoint).
	// +kubebuilder:validation:MaxLength=98304
	// +optional
	Checkpoint string `json:"checkpoint,omitempty"`

	// proof is the inclusion proof, which holds the checkpoint too
	// (c2sp.org/tlog-proof).
	// +kubebuilder:validation:MaxLength=114688
	// +optional
	Proof string `json:"proof,omitempty"`
}

// Artifact is one image with one digest, published on the ledger. It says
// where on the ledger it is and holds the proof.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=pa,categories=pyrsia
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.spec.image`
// +kubebuilder:printcolumn:name="Digest",type=string,JSONPath=`.spec.digest`
// +kubebuilder:printcolumn:name="Block",type=integer,JSONPath=`.status.block.height`
// +kubebuilder:printcolumn:name="Verified",type=string,JSONPath=`.status.conditions[?(@.type=="Verified")].status`
// +kubebuilder:printcolumn:name="Pulled",type=date,JSONPath=`.status.lastPulled`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="State",type=string,priority=1,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="Ready",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type Artifact struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the desired state; it cannot be changed.
	// +required
	Spec ArtifactSpec `json:"spec,omitzero"`

	// status is the observed state.
	// +kubebuilder:default={"observedGeneration":-1}
	// +optional
	Status ArtifactStatus `json:"status,omitzero"`
}

// ArtifactList is a list of Artifacts.
// +kubebuilder:object:root=true
type ArtifactList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Artifact `json:"items"`
}
