package pyrsianode

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// maxAddresses bounds the external addresses in a node's status: one is enough
// to join.
const maxAddresses = 8

// expose makes the way to the node from outside, and finds out where it begins.
func (r *Reconciler) expose(ctx context.Context, n *v1alpha1.PyrsiaNode, in *desired.Inputs) error {
	e := desired.Exposure(n)
	if e == nil || e.Type == v1alpha1.ExposureHostPort {
		if e != nil {
			in.Outside = desired.Outside{Hosts: e.Addresses, Port: e.Port}
		}
		return apply.DeleteOwned(ctx, r.applier, n, new(corev1.Service), "Service", desired.ExposureName(n))
	}
	live, changed, err := r.applyService(ctx, n, desired.ExposureService(n, e))
	if err != nil || changed {
		return err // a watch tells what became of it
	}
	in.Outside = desired.Outside{Hosts: e.Addresses, Port: e.Port}
	switch {
	case e.Type == v1alpha1.ExposureNodePort:
		in.Outside.Port = nodePort(live)
	case len(e.Addresses) == 0:
		in.Outside.Hosts = ingress(live)
		if len(in.Outside.Hosts) == 0 {
			in.Outside.Hosts, in.Outside.Lost = hadBefore(n, e.Port), true
		}
		if len(in.Outside.Hosts) == 0 {
			in.Outside = desired.Outside{}
		}
	}
	return nil
}

// network of a publisher: an exposed one has an address outside.
func (r *Reconciler) publisherNetwork(ctx context.Context, n *v1alpha1.PyrsiaNode, in *desired.Inputs) error {
	const condition = v1alpha1.ConditionNetworkReady
	err := r.expose(ctx, n, in)
	if foreign, ok := errors.AsType[*apply.ForeignError](err); ok {
		status.SetFailed(n, condition, v1alpha1.ReasonNameConflict, foreign.Error())
		return nil
	}
	switch {
	case err != nil:
		status.SetRefused(n, condition, v1alpha1.ReasonNotApplied, "the API server refuses the Service "+desired.ExposureName(n)+": "+err.Error())
		return err
	case desired.Exposure(n) == nil:
		status.SetDone(n, condition, v1alpha1.ReasonInternal, "The network is open to nodes of this cluster")
	case in.Outside.Lost:
		status.SetWaiting(n, condition, v1alpha1.ReasonAddressLost, "the cluster has taken the address of Service "+desired.ExposureName(n)+" away, and the publisher goes on with the last one: its events tell what is missing, or give spec.network.exposure.addresses")
	case in.Outside.Port == 0:
		status.SetWaiting(n, condition, v1alpha1.ReasonAddressPending, "waiting for the cluster to give Service "+desired.ExposureName(n)+" an address: its events tell what is missing, or give spec.network.exposure.addresses")
	default:
		status.SetDone(n, condition, v1alpha1.ReasonExposed, "The network is open to nodes outside of this cluster too")
	}
	return nil
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
		host, _ := desired.HostKind(cmp.Or(i.Hostname, i.IP))
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	return hosts[:min(len(hosts), maxAddresses)]
}

// hadBefore are the hosts in the status of a load balancer that has none now: it
// may have lost them for a moment, and restarting the publisher would not help.
// They count until something else is asked for.
func hadBefore(n *v1alpha1.PyrsiaNode, port int32) (hosts []string) {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNetworkReady)
	if c == nil || c.Reason != v1alpha1.ReasonAddressLost && (c.Reason != v1alpha1.ReasonExposed || c.ObservedGeneration != n.Generation) {
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

// hostIPsOf are the addresses of a pod's Kubernetes node, of the families that the
// pod has too: what comes at another one does not reach it.
func hostIPsOf(pod *corev1.Pod) (ips []string) {
	family := func(s string) string { _, kind := desired.HostKind(s); return kind }
	for _, host := range pod.Status.HostIPs {
		if slices.ContainsFunc(pod.Status.PodIPs, func(own corev1.PodIP) bool { return family(own.IP) == family(host.IP) }) {
			ips = append(ips, host.IP)
		}
	}
	return ips
}
