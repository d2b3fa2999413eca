package controllers_test

import (
	"net"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// Nodes are named by addresses of both families where the cluster has both, also
// where the Services were made for one.
func TestServicesHaveBothFamilies(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	n := publisherNode(c.namespace(t), newUpstream(t).URL)
	n.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureNodePort}}
	c.create(t, n)
	for _, name := range []string{n.Name, desired.ExposureName(n)} {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: name}}
		both := func() {
			t.Helper()
			c.until(t, svc, func() error {
				return errorIf(len(svc.Spec.IPFamilies) != 2, "%s has the families %v", name, svc.Spec.IPFamilies)
			})
		}
		both()
		c.until(t, svc, func() error {
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
	c.create(t, publisher, fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}))
	c.runPodAt(t, publisher, "", "::1")
	c.until(t, publisher, func() error {
		return errorIf(len(publisher.Status.Addresses) != 1 || objects.LedgerSize(publisher) != 1, "addresses %v, %d blocks", publisher.Status.Addresses, objects.LedgerSize(publisher))
	})
	if want := "/ip6/::1/tcp/4001/p2p/" + publisher.Status.PeerID; publisher.Status.Addresses[0] != want {
		t.Errorf("it is joined at %s, want %s", publisher.Status.Addresses[0], want)
	}
	joins(t, publisher)
}
