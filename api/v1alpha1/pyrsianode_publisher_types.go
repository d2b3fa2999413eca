package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

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
	// signingKeySecretRef and -2) unless you have made it, lets both keys sign for
	// a day from when the ledger records that the second one follows, and until the
	// mirrors of this namespace have seen it, but for at most seven days, and then
	// that one alone.
	// Mirrors follow by themselves; those of other namespaces and clusters raise
	// LedgerKeyChanged until somebody acknowledges it. From then on the key before
	// is worth nothing: who verifies proofs by a pinned key pins the new one, and
	// fetches proofs again that were saved. status.keyGeneration tells when it is
	// done.
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
	// taken up without a restart. What only they can read is not published, unless
	// privateRepositories lists it.
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`

	// privateRepositories are patterns of the repositories that may be published
	// although only the credentials can read them, such as "team/app" or "team/*";
	// * stands for any characters but '/'. Everybody who may create Artifacts can
	// make them public then. The other repositories are looked at without the
	// credentials first, and are published if that works; official images,
	// docker.io/library/*, always are.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9*][a-z0-9._/*-]*$`
	// +listType=set
	// +optional
	PrivateRepositories []string `json:"privateRepositories,omitempty"`

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
