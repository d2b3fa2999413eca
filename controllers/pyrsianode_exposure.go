package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// maxAddresses bounds the addresses outside that the status shows of a node:
// whoever joins needs one.
const maxAddresses = 8

// The reasons of NetworkReady of a publisher that is exposed.
const (
	reasonExposed     = "Exposed"
	reasonAddressLost = "AddressLost"
)

// outside is where a node is reached from outside of its cluster.
type outside struct {
	hosts []string // none: the Kubernetes node on which the pod runs
	port  int32    // 0: nowhere
	lost  bool     // the cluster does not give the hosts any more: they are those it gave last
}

// exposure is how a node is to be reached from outside; nil if it is not.
func exposure(n *v1alpha1.PyrsiaNode) *v1alpha1.Exposure {
	if n.Spec.Network == nil || n.Spec.Network.Exposure == nil {
		return nil
	}
	e := *n.Spec.Network.Exposure
	if e.Type != v1alpha1.ExposureNodePort {
		e.Port = cmp.Or(e.Port, portP2P)
	}
	return &e
}

func exposureName(n *v1alpha1.PyrsiaNode) string { return n.Name + suffixExposure }

// expose makes the way to the node from outside, and finds out where it begins.
func (r *PyrsiaNodeReconciler) expose(ctx context.Context, n *v1alpha1.PyrsiaNode, in *podInputs) error {
	e := exposure(n)
	if e == nil || e.Type == v1alpha1.ExposureHostPort {
		if e != nil {
			in.outside = outside{hosts: e.Addresses, port: e.Port}
		}
		return deleteOwned(ctx, r.applier, n, new(corev1.Service), "Service", exposureName(n))
	}
	live, changed, err := r.applyService(ctx, n, exposureService(n, e))
	if err != nil || changed {
		return err // a watch tells what became of it
	}
	in.outside = outside{hosts: e.Addresses, port: e.Port}
	switch {
	case e.Type == v1alpha1.ExposureNodePort:
		in.outside.port = nodePort(live)
	case len(e.Addresses) == 0:
		in.outside.hosts = ingress(live)
		if len(in.outside.hosts) == 0 {
			in.outside.hosts, in.outside.lost = hadBefore(n, e.Port), true
		}
		if len(in.outside.hosts) == 0 {
			in.outside = outside{}
		}
	}
	return nil
}

// network of a publisher: an exposed one has an address outside.
func (r *PyrsiaNodeReconciler) publisherNetwork(ctx context.Context, n *v1alpha1.PyrsiaNode, in *podInputs) error {
	const condition = v1alpha1.ConditionNetworkReady
	err := r.expose(ctx, n, in)
	if foreign, ok := errors.AsType[*foreignObjectError](err); ok {
		setFailed(n, condition, "NameConflict", foreign.Error())
		return nil
	}
	switch {
	case err != nil:
		setRefused(n, condition, "NotApplied", "the API server refuses the Service "+exposureName(n)+": "+err.Error())
		return err
	case exposure(n) == nil:
		setDone(n, condition, "Internal", "The network is open to nodes of this cluster")
	case in.outside.lost:
		setWaiting(n, condition, reasonAddressLost, "the cluster has taken the address of Service "+exposureName(n)+" away, and the publisher goes on with the last one: its events tell what is missing, or give spec.network.exposure.addresses")
	case in.outside.port == 0:
		setWaiting(n, condition, "AddressPending", "waiting for the cluster to give Service "+exposureName(n)+" an address: its events tell what is missing, or give spec.network.exposure.addresses")
	default:
		setDone(n, condition, reasonExposed, "The network is open to nodes outside of this cluster too")
	}
	return nil
}

// exposureService is the way from outside to a publisher's pod.
func exposureService(n *v1alpha1.PyrsiaNode, e *v1alpha1.Exposure) *coreac.ServiceApplyConfiguration {
	port := servicePort("p2p", portP2P)
	spec := coreac.ServiceSpec().
		WithIPFamilyPolicy(corev1.IPFamilyPolicyPreferDualStack).
		WithSelector(labels(n, component(n)))
	if e.Type == v1alpha1.ExposureNodePort {
		spec.WithType(corev1.ServiceTypeNodePort)
		if e.Port != 0 {
			port.WithNodePort(e.Port)
		}
	} else {
		spec.WithType(corev1.ServiceTypeLoadBalancer)
		port.WithPort(e.Port)
	}
	return coreac.Service(exposureName(n), n.Namespace).
		WithLabels(labels(n, component(n))).
		WithAnnotations(e.ServiceAnnotations).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(spec.WithPorts(port))
}

func nodePort(svc *corev1.Service) int32 {
	for _, p := range svc.Spec.Ports {
		if p.Name == "p2p" {
			return p.NodePort
		}
	}
	return 0
}

// ingress are the addresses of a load balancer, in an order of our own: another one
// would restart the publisher, to which they are arguments.
func ingress(svc *corev1.Service) (hosts []string) {
	for _, i := range svc.Status.LoadBalancer.Ingress {
		host, _ := hostKind(cmp.Or(i.Hostname, i.IP))
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	return hosts[:min(len(hosts), maxAddresses)]
}

// hadBefore are the hosts that the status tells of a load balancer that has none
// now: it may have lost them for a moment, and nobody is served by a restart of the
// publisher. They count as long as nothing else was asked for since.
func hadBefore(n *v1alpha1.PyrsiaNode, port int32) (hosts []string) {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNetworkReady)
	if c == nil || c.Reason != reasonAddressLost && (c.Reason != reasonExposed || c.ObservedGeneration != n.Generation) {
		return nil
	}
	for _, address := range n.Status.Addresses {
		if part := strings.Split(address, "/"); len(part) > 4 && part[4] == strconv.Itoa(int(port)) { // "/ip4/HOST/tcp/PORT/..."
			hosts = append(hosts, part[2])
		}
	}
	slices.Sort(hosts)
	return hosts
}

// hostIPs are, in a container's arguments, the addresses of its Kubernetes node.
const hostIPs = "$(HOST_IPS)"

// announceArgs tell the node where others reach it.
func (o outside) announceArgs() (args []string) {
	if o.port == 0 {
		return nil
	}
	if len(o.hosts) == 0 {
		return []string{"--announce", fmt.Sprintf("[%s]:%d", hostIPs, o.port)}
	}
	for _, host := range o.hosts {
		args = append(args, "--announce", net.JoinHostPort(host, strconv.Itoa(int(o.port))))
	}
	return args
}

// multiaddrs are the addresses outside of a pod that runs on a Kubernetes node.
func (o outside) multiaddrs(nodeIPs []string, peerID string) (out []string) {
	hosts := o.hosts
	if len(hosts) == 0 {
		hosts = nodeIPs
	}
	if o.port == 0 || peerID == "" {
		return nil
	}
	for _, host := range hosts {
		host, kind := hostKind(host)
		if host != "" {
			out = append(out, fmt.Sprintf("/%s/%s/tcp/%d/p2p/%s", kind, host, o.port, peerID))
		}
	}
	return out
}

// hostKind is a host in its usual spelling, and what it is in a multiaddr. A name
// may stand for addresses of both families.
func hostKind(host string) (same, kind string) {
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

// hostIPsOf are the addresses of a pod's Kubernetes node, of the families that the
// pod has too: what comes at another one does not reach it.
func hostIPsOf(pod *corev1.Pod) (ips []string) {
	family := func(s string) string { _, kind := hostKind(s); return kind }
	for _, host := range pod.Status.HostIPs {
		if slices.ContainsFunc(pod.Status.PodIPs, func(own corev1.PodIP) bool { return family(own.IP) == family(host.IP) }) {
			ips = append(ips, host.IP)
		}
	}
	return ips
}
