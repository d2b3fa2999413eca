package controllers

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
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
		got := outside{port: 30401}.multiaddrs(hostIPsOf(pod), somePeer)
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
		got := outside{hosts: ingress(svc), port: portP2P}.multiaddrs(nil, somePeer)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Nodes are named by addresses of both families where the cluster has both, also
// where the Services were made for one.
func TestServicesHaveBothFamilies(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	n := publisherNode(c.namespace(t), newUpstream(t).URL)
	n.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureNodePort}}
	c.create(t, n)
	for _, name := range []string{n.Name, exposureName(n)} {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: name}}
		both := func() {
			t.Helper()
			eventually(t, func() error {
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(svc), svc); err != nil {
					return err
				}
				if len(svc.Spec.IPFamilies) != 2 {
					return fmt.Errorf("%s has the families %v", name, svc.Spec.IPFamilies)
				}
				return nil
			})
		}
		both()
		eventually(t, func() error {
			c.get(t, svc)
			single := corev1.IPFamilyPolicySingleStack
			svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &single, svc.Spec.IPFamilies[:1]
			if len(svc.Spec.ClusterIPs) > 1 {
				svc.Spec.ClusterIPs = svc.Spec.ClusterIPs[:1]
			}
			return c.Update(t.Context(), svc)
		})
		both()
	}
}

// A cluster without IPv4: the operator asks a pod at its IPv6 address, and a node
// outside joins at that of its Kubernetes node.
func TestPodsWithoutIPv4(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("this machine has no IPv6: ", err)
	}
	_ = l.Close()
	ns := c.namespace(t)
	up := newUpstream(t)
	up.push(t, "library/alpine:3.20")
	publisher := publisherNode(ns, up.URL)
	publisher.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureHostPort}}
	c.create(t, publisher, imageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}))
	c.runPodAt(t, publisher, "", "::1")
	eventually(t, func() error {
		c.get(t, publisher)
		if len(publisher.Status.Addresses) != 1 || ledgerSize(publisher) != 1 {
			return fmt.Errorf("addresses %v, %d blocks", publisher.Status.Addresses, ledgerSize(publisher))
		}
		return nil
	})
	if want := "/ip6/::1/tcp/4001/p2p/" + publisher.Status.PeerID; publisher.Status.Addresses[0] != want {
		t.Errorf("it is joined at %s, want %s", publisher.Status.Addresses[0], want)
	}
	joins(t, publisher)
}
