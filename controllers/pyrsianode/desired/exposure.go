package desired

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// Outside is where a node is reached from outside of its cluster.
type Outside struct {
	Hosts []string // none: the Kubernetes node on which the pod runs
	Port  int32    // 0: nowhere
	Lost  bool     // the cluster does not give the hosts any more: they are those it gave last
}

// Exposure is how a node is to be reached from outside; nil if it is not.
func Exposure(n *v1alpha1.PyrsiaNode) *v1alpha1.Exposure {
	if n.Spec.Network == nil || n.Spec.Network.Exposure == nil {
		return nil
	}
	e := *n.Spec.Network.Exposure
	if e.Type != v1alpha1.ExposureNodePort {
		e.Port = cmp.Or(e.Port, PortP2P)
	}
	return &e
}

// ExposureName is the Service by which a publisher is reached from outside.
func ExposureName(n *v1alpha1.PyrsiaNode) string { return n.Name + objects.SuffixExposure }

// ExposureService is the way from outside to a publisher's pod.
func ExposureService(n *v1alpha1.PyrsiaNode, e *v1alpha1.Exposure) *coreac.ServiceApplyConfiguration {
	port := servicePort("p2p", PortP2P)
	spec := coreac.ServiceSpec().
		WithIPFamilyPolicy(corev1.IPFamilyPolicyPreferDualStack).
		WithSelector(objects.Labels(n, objects.Component(n)))
	if e.Type == v1alpha1.ExposureNodePort {
		spec.WithType(corev1.ServiceTypeNodePort)
		if e.Port != 0 {
			port.WithNodePort(e.Port)
		}
	} else {
		spec.WithType(corev1.ServiceTypeLoadBalancer)
		port.WithPort(e.Port)
	}
	return coreac.Service(ExposureName(n), n.Namespace).
		WithLabels(objects.Labels(n, objects.Component(n))).
		WithAnnotations(e.ServiceAnnotations).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(spec.WithPorts(port))
}

// HostIPs are, in a container's arguments, the addresses of its Kubernetes node.
const HostIPs = "$(HOST_IPS)"

// announceArgs tell the node where others reach it.
func (o Outside) announceArgs() (args []string) {
	if o.Port == 0 {
		return nil
	}
	if len(o.Hosts) == 0 {
		return []string{"--announce", fmt.Sprintf("[%s]:%d", HostIPs, o.Port)}
	}
	for _, host := range o.Hosts {
		args = append(args, "--announce", net.JoinHostPort(host, strconv.Itoa(int(o.Port))))
	}
	return args
}

// Multiaddrs are the addresses outside of a pod that runs on a Kubernetes node.
func (o Outside) Multiaddrs(nodeIPs []string, peerID string) (out []string) {
	hosts := o.Hosts
	if len(hosts) == 0 {
		hosts = nodeIPs
	}
	if o.Port == 0 || peerID == "" {
		return nil
	}
	for _, host := range hosts {
		host, kind := HostKind(host)
		if host != "" {
			out = append(out, fmt.Sprintf("/%s/%s/tcp/%d/p2p/%s", kind, host, o.Port, peerID))
		}
	}
	return out
}

// HostKind is a host in its usual spelling, and what it is in a multiaddr. A name
// may stand for addresses of both families.
func HostKind(host string) (same, kind string) {
	ip, err := netip.ParseAddr(host)
	switch ip = ip.Unmap(); {
	case err != nil:
		return host, "dns"
	case ip.Is4():
		return ip.String(), "ip4"
	default:
		return ip.String(), "ip6"
	}
}
