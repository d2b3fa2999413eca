package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SetMode is what the operator does with an OfficialImageSet.
// +kubebuilder:validation:Enum=Publish;Plan
type SetMode string

// The modes of an OfficialImageSet.
const (
	SetModePublish SetMode = "Publish"
	SetModePlan    SetMode = "Plan"
)

// DeletionPolicy is what becomes of the content of published images.
// +kubebuilder:validation:Enum=Retain;Delete
type DeletionPolicy string

// The deletion policies.
const (
	DeletionRetain DeletionPolicy = "Retain"
	DeletionDelete DeletionPolicy = "Delete"
)

// OfficialImageSetSpec is the desired state of an OfficialImageSet.
// +kubebuilder:validation:XValidation:rule="has(self.images) || has(self.catalog)",message="give images, catalog, or both"
// +kubebuilder:validation:XValidation:rule="has(self.platforms) == has(oldSelf.platforms) && (!has(self.platforms) || self.platforms == oldSelf.platforms)",message="platforms cannot be changed, for blocks stay: make another OfficialImageSet",fieldPath=".platforms"
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
	// +optional
	Images []ImageTags `json:"images,omitempty"`

	// catalog is a list of official images that others keep. It adds to images.
	// +optional
	Catalog *Catalog `json:"catalog,omitempty"`

	// exclude are patterns of images to leave out, such as "golang:*-windows*"
	// or "clefos:*"; * stands for any characters but '/'.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	// +optional
	Exclude []string `json:"exclude,omitempty"`

	// platforms are those to publish of each image, such as "linux/amd64"; all
	// of them when there are none. "linux/arm" stands for each of its variants.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`
	// +listType=set
	// +optional
	Platforms []string `json:"platforms,omitempty"`

	// mode is Publish, or Plan for a dry run: status.plan then counts what would
	// be published, and nothing is.
	// +kubebuilder:default=Publish
	// +optional
	Mode SetMode `json:"mode,omitempty"`

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

	// deletionPolicy says what the publisher does with the content of the set's
	// images when the set is deleted: Retain it, or Delete what no other image
	// needs and no other Artifact in the cluster has, whoever made that. The ledger
	// keeps all blocks either way.
	// +kubebuilder:default=Retain
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// ImageTags are tags of one repository: those listed, and those that the rules
// find among the tags which the upstream registry has.
// +kubebuilder:validation:XValidation:rule="has(self.tags) || has(self.semver) || has(self.regexp) || has(self.newest)",message="give tags, or a rule that finds them: semver, regexp or newest"
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
	// +optional
	Tags []string `json:"tags,omitempty"`

	TagRules `json:",inline"`
}

// TagRules find tags. Each one that is set narrows what the others find.
type TagRules struct {
	// semver is a range of versions, such as ">=3.18 <4". Pre-releases, which
	// variants such as 3.20-slim are too, count only if the range names one.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Semver string `json:"semver,omitempty"`

	// regexp is a regular expression (RE2) that must match the whole tag.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Regexp string `json:"regexp,omitempty"`

	// newest keeps so many of the highest versions; tags that are no version
	// are left out.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Newest int32 `json:"newest,omitempty"`

	// exclude are patterns of tags to leave out, such as "*-rc*".
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	// +optional
	Exclude []string `json:"exclude,omitempty"`
}

// Catalog is a list of official images.
// +kubebuilder:validation:XValidation:rule="has(self.archive) != has(self.dockerHub)",message="give exactly one of archive and dockerHub"
type Catalog struct {
	// archive is the catalog of docker-library/official-images at one commit.
	// +optional
	Archive *CatalogArchive `json:"archive,omitempty"`

	// dockerHub is what Docker Hub lists.
	// +optional
	DockerHub *CatalogDockerHub `json:"dockerHub,omitempty"`
}

// CatalogArchive is an archive of docker-library/official-images.
type CatalogArchive struct {
	// url is where the publisher fetches the .tar.gz from, such as
	// https://github.com/docker-library/official-images/archive/COMMIT.tar.gz.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="url must be an http or https URL"
	// +required
	URL string `json:"url,omitempty"`

	// sha256 is the SHA-256 of the archive, in hexadecimal: the list that is
	// published is the one that was reviewed.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	// +required
	SHA256 string `json:"sha256,omitempty"`
}

// CatalogDockerHub takes the repositories that Docker Hub lists in a
// namespace, with the tags that the rules find of each.
// +kubebuilder:validation:XValidation:rule="has(self.semver) || has(self.regexp) || has(self.newest)",message="give a rule: semver, regexp or newest, for Docker Hub never removes old tags"
type CatalogDockerHub struct {
	// namespace is the namespace at Docker Hub.
	// +kubebuilder:default=library
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// endpoint is the URL of the listing API.
	// +kubebuilder:default="https://hub.docker.com"
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="endpoint must be an http or https URL"
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	TagRules `json:",inline"`
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

	// progress is how much of the set is published: "57%".
	// +kubebuilder:validation:MaxLength=8
	// +optional
	Progress string `json:"progress,omitempty"`

	// eta is when all will be published if it goes on like this. It is there
	// while images are being published.
	// +optional
	ETA *metav1.Time `json:"eta,omitempty"`

	// blocks is the number of blocks of the set's Artifacts, earlier digests
	// among them.
	// +optional
	Blocks int32 `json:"blocks"`

	// bytes is the size of the images that the set's Artifacts record; what
	// several of them share counts for each.
	// +optional
	Bytes int64 `json:"bytes"`

	// plan is what the set holds, counted before anything is published.
	// +optional
	Plan *Plan `json:"plan,omitempty"`

	// rateLimit is what the upstream registry said last about its limits.
	// +optional
	RateLimit *RateLimit `json:"rateLimit,omitempty"`

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

// Plan counts what a set holds.
type Plan struct {
	// repositories is the number of repositories.
	// +optional
	Repositories int32 `json:"repositories"`

	// images is the number of tags.
	// +optional
	Images int32 `json:"images"`

	// new is the number of tags of which no digest was published yet.
	// +optional
	New int32 `json:"new"`
}

// RateLimit is what an upstream registry lets its clients pull.
type RateLimit struct {
	// limit is the number of pulls in a window.
	// +optional
	Limit int32 `json:"limit"`

	// remaining is how many of them were left.
	// +optional
	Remaining int32 `json:"remaining"`

	// windowSeconds is the length of the window.
	// +optional
	WindowSeconds int32 `json:"windowSeconds"`

	// retryTime is when the registry wants to be asked again.
	// +optional
	RetryTime *metav1.Time `json:"retryTime,omitempty"`
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

	// nextTry is when it is tried again.
	// +optional
	NextTry *metav1.Time `json:"nextTry,omitempty"`
}

// OfficialImageSet is a set of images that a publisher publishes and keeps up
// to date: one Artifact for each digest of each tag.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ois,categories=pyrsia
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.status.desired`
// +kubebuilder:printcolumn:name="Published",type=integer,JSONPath=`.status.published`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="ETA",type=date,JSONPath=`.status.eta`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Bytes",type=integer,priority=1,JSONPath=`.status.bytes`
// +kubebuilder:printcolumn:name="Pulls left",type=integer,priority=1,JSONPath=`.status.rateLimit.remaining`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,priority=1,JSONPath=`.spec.suspend`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type OfficialImageSet struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the desired state.
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
