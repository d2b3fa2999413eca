package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Network is a node's place among the others.
// +kubebuilder:validation:XValidation:rule="!has(self.publisherRef) || !has(self.ledgerKey)",message="give exactly one root of trust: publisherRef, or ledgerKey with bootstrap"
// +kubebuilder:validation:XValidation:rule="has(self.ledgerKey) == has(self.bootstrap)",message="ledgerKey and bootstrap go together"
type Network struct {
	// publisherRef names the publisher of the network that a mirror joins, a
	// PyrsiaNode in the same namespace.
	// +optional
	PublisherRef *LocalReference `json:"publisherRef,omitempty"`

	// ledgerKey is the verifier key of the publisher that a mirror trusts, if
	// that is in another cluster: what its status.ledger.key shows there.
	// +kubebuilder:validation:MaxLength=320
	// +kubebuilder:validation:Pattern=`^[^\s+]{1,255}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{43,}={0,2}$`
	// +optional
	LedgerKey string `json:"ledgerKey,omitempty"`

	// bootstrap are the multiaddrs of the first peers of a mirror, if its
	// publisher is in another cluster: what the status.addresses of PyrsiaNodes
	// show there.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/(tcp|udp)/[0-9]{1,5}(/[^/\s]+)*/p2p/[1-9A-HJ-NP-Za-km-z]{40,64}$`
	// +listType=set
	// +optional
	Bootstrap []string `json:"bootstrap,omitempty"`

	// exposure lets nodes outside of the cluster connect to this one: mirrors of
	// other clusters, and single machines with Docker or containerd. Who connects
	// gets public content alone, and proofs. By default a node is reached from
	// within the cluster only.
	// +optional
	Exposure *Exposure `json:"exposure,omitempty"`
}

// ExposureType is by what means a node is reached from outside of its cluster.
// +kubebuilder:validation:Enum=HostPort;NodePort;LoadBalancer
type ExposureType string

// The ways to a node from outside of its cluster.
const (
	ExposureHostPort     ExposureType = "HostPort"
	ExposureNodePort     ExposureType = "NodePort"
	ExposureLoadBalancer ExposureType = "LoadBalancer"
)

// Exposure is how a node is reached from outside of its cluster.
// +kubebuilder:validation:XValidation:rule="self.type != 'NodePort' || !has(self.port) || self.port >= 30000 && self.port <= 32767",message="port must be of the range of node ports: 30000 to 32767"
// +kubebuilder:validation:XValidation:rule="self.type == 'LoadBalancer' || !has(self.serviceAnnotations)",message="serviceAnnotations are for type LoadBalancer"
type Exposure struct {
	// type is HostPort (a port of the Kubernetes node on which the pod runs; Pod
	// Security "baseline" does not admit that), NodePort (the same port of all
	// Kubernetes nodes) or LoadBalancer (an address of its own, where the cluster
	// can give one). The Service for the latter two is NAME-p2p.
	// +required
	Type ExposureType `json:"type,omitempty"`

	// port is the TCP port outside. By default it is 4001, and of type NodePort
	// one that the cluster chooses.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port int32 `json:"port,omitempty"`

	// addresses are the host names or IP addresses at which others reach that
	// port, where the cluster cannot know: behind a NAT, or under a name that
	// stays when machines go. By default they are the addresses of the
	// pod's Kubernetes node, or those that the load balancer was given.
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|[0-9a-fA-F:]+)$`
	// +listType=set
	// +optional
	Addresses []string `json:"addresses,omitempty"`

	// serviceAnnotations are put on the Service of type LoadBalancer: they tell
	// the cloud what kind of load balancer to make.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	ServiceAnnotations map[string]string `json:"serviceAnnotations,omitempty"`
}

// Bandwidth bounds what a node exchanges with its peers, in bytes per second.
type Bandwidth struct {
	// upload bounds what goes to all peers together, such as 100Mi.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 131072 : quantity(self).compareTo(quantity('128Ki')) >= 0",message="upload must be 128Ki or more, in bytes per second"
	// +optional
	Upload *resource.Quantity `json:"upload,omitempty"`

	// download bounds what comes from all peers together.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 131072 : quantity(self).compareTo(quantity('128Ki')) >= 0",message="download must be 128Ki or more, in bytes per second"
	// +optional
	Download *resource.Quantity `json:"download,omitempty"`

	// perPeer bounds each of the two with each peer.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 131072 : quantity(self).compareTo(quantity('128Ki')) >= 0",message="perPeer must be 128Ki or more, in bytes per second"
	// +optional
	PerPeer *resource.Quantity `json:"perPeer,omitempty"`
}
