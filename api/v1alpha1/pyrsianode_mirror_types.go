package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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
