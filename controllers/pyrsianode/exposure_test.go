package pyrsianode

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

const somePeer = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"

// What comes at an address of a Kubernetes node reaches the pods that have one of the
// same family.
func TestAddressesOfBothFamilies(t *testing.T) {
	const host4, host6, pod4, pod6 = "192.0.2.7", "2001:db8::7", "10.244.1.7", "fd00:10:244:1::7"
	at4, at6 := "/ip4/192.0.2.7/tcp/30401/p2p/"+somePeer, "/ip6/2001:db8::7/tcp/30401/p2p/"+somePeer
	for name, tt := range map[string]struct{ hosts, pods, want []string }{
		"IPv4 alone":                         {[]string{host4}, []string{pod4}, []string{at4}},
		"IPv6 alone":                         {[]string{host6}, []string{pod6}, []string{at6}},
		"both":                               {[]string{host4, host6}, []string{pod4, pod6}, []string{at4, at6}},
		"both, IPv6 first":                   {[]string{host6, host4}, []string{pod6, pod4}, []string{at6, at4}},
		"a machine of both and pods of IPv4": {[]string{host4, host6}, []string{pod4}, []string{at4}},
		"a machine of both and pods of IPv6": {[]string{host4, host6}, []string{pod6}, []string{at6}},
	} {
		pod := new(corev1.Pod)
		for _, ip := range tt.hosts {
			pod.Status.HostIPs = append(pod.Status.HostIPs, corev1.HostIP{IP: ip})
		}
		for _, ip := range tt.pods {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		got := desired.Outside{Port: 30401}.Multiaddrs(hostIPsOf(pod), somePeer)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A load balancer's addresses are the same however they are spelled: another spelling
// would restart the publisher.
func TestAddressesOfALoadBalancer(t *testing.T) {
	for name, tt := range map[string]struct {
		ingress []corev1.LoadBalancerIngress
		want    []string
	}{
		"both families": {[]corev1.LoadBalancerIngress{{IP: "192.0.2.7"}, {IP: "2001:db8::7"}},
			[]string{"/ip4/192.0.2.7/tcp/4001/p2p/" + somePeer, "/ip6/2001:db8::7/tcp/4001/p2p/" + somePeer}},
		"another spelling": {[]corev1.LoadBalancerIngress{{IP: "2001:0DB8:0:0::7"}, {IP: "2001:db8::7"}},
			[]string{"/ip6/2001:db8::7/tcp/4001/p2p/" + somePeer}},
		"IPv4 as IPv6": {[]corev1.LoadBalancerIngress{{IP: "::ffff:192.0.2.7"}}, []string{"/ip4/192.0.2.7/tcp/4001/p2p/" + somePeer}},
		"a name":       {[]corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}, []string{"/dns/lb.example.com/tcp/4001/p2p/" + somePeer}},
	} {
		svc := &corev1.Service{Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: tt.ingress}}}
		got := desired.Outside{Hosts: ingress(svc), Port: desired.PortP2P}.Multiaddrs(nil, somePeer)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
