package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// OfficialImageSetSpec is the wanted state of an OfficialImageSet.
type OfficialImageSetSpec struct {
	// publisherRef names the publisher, a PyrsiaNode in the same namespace.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="publisherRef cannot be changed: make another OfficialImageSet"
	// +required
	PublisherRef LocalReference `json:"publisherRef,omitzero"`

	// images are the images to publish. The Artifacts of an image that is taken
	// out are deleted; its blocks stay on the ledger for good.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	// +listType=map
	// +listMapKey=repository
	// +required
	Images []ImageTags `json:"images,omitempty"`

	// interval is how often tags are resolved again, to see whether they moved.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=duration
	// +kubebuilder:validation:XValidation:rule="self >= duration('10s')",message="interval must be 10s or longer"
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`

	// suspend stops resolving and publishing of new digests while it is true.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// historyLimit is how many Artifacts of earlier digests are kept for each tag.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	HistoryLimit *int32 `json:"historyLimit,omitempty"`
}

// ImageTags are tags of one repository.
type ImageTags struct {
	// repository is the image without its tag, as container clients read it:
	// "alpine", "library/alpine" or "docker.io/library/alpine".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`
	// +required
	Repository string `json:"repository,omitempty"`

	// tags are the tags to publish.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=512
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`
	// +listType=set
	// +required
	Tags []string `json:"tags,omitempty"`
}

// OfficialImageSetStatus is the observed state of an OfficialImageSet.
type OfficialImageSetStatus struct {
	// observedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are the steps Resolved and Published, and Ready, which sums them up.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// desired is the number of tags in the set.
	// +optional
	Desired int32 `json:"desired"`

	// published is the number of tags whose newest digest is published and mirrored.
	// +optional
	Published int32 `json:"published"`

	// pending is the number of tags that are being resolved or published.
	// +optional
	Pending int32 `json:"pending"`

	// failed is the number of tags that could not be resolved or published.
	// +optional
	Failed int32 `json:"failed"`

	// failures are the first 20 of them, by name.
	// +kubebuilder:validation:MaxItems=20
	// +listType=map
	// +listMapKey=image
	// +optional
	Failures []ImageFailure `json:"failures,omitempty"`

	// lastResolvedTime is when all tags were last resolved.
	// +optional
	LastResolvedTime *metav1.Time `json:"lastResolvedTime,omitempty"`
}

// ImageFailure tells why an image is not published.
type ImageFailure struct {
	// image is the image: "docker.io/library/alpine:3.20".
	// +kubebuilder:validation:MaxLength=512
	// +required
	Image string `json:"image,omitempty"`

	// reason is the cause, in one CamelCase word.
	// +kubebuilder:validation:MaxLength=128
	// +required
	Reason string `json:"reason,omitempty"`

	// message says what was wrong and what to do.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// OfficialImageSet is a set of images that a publisher publishes and keeps up
// to date: one Artifact for each digest of each tag.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ois,categories=pyrsia
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.status.desired`
// +kubebuilder:printcolumn:name="Published",type=integer,JSONPath=`.status.published`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,priority=1,JSONPath=`.spec.suspend`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type OfficialImageSet struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the wanted state.
	// +required
	Spec OfficialImageSetSpec `json:"spec,omitzero"`

	// status is the observed state.
	// +kubebuilder:default={"observedGeneration":-1}
	// +optional
	Status OfficialImageSetStatus `json:"status,omitzero"`
}

// OfficialImageSetList is a list of OfficialImageSets.
// +kubebuilder:object:root=true
type OfficialImageSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []OfficialImageSet `json:"items"`
}
