package controllers_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	pyrsia "github.com/pyrsia/pyrsia-operator/node"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A publisher that is exposed tells the addresses at which nodes outside join;
// a node on another machine joins by nothing else but them and the key.
func TestNodesOutsideJoin(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	for _, kind := range []v1alpha1.ExposureType{v1alpha1.ExposureHostPort, v1alpha1.ExposureNodePort, v1alpha1.ExposureLoadBalancer} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ns := c.namespace(t)
			up := newUpstream(t)
			up.push(t, "library/alpine:3.20")
			publisher := publisherNode(ns, up.URL)
			publisher.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: kind}}
			c.create(t, publisher, fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}))
			way := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.ExposureName(publisher)}}
			outer := nextIP()
			if kind == v1alpha1.ExposureLoadBalancer {
				c.awaitCondition(t, publisher, v1alpha1.ConditionNetworkReady, metav1.ConditionUnknown, "AddressPending")
				c.until(t, way, func() error { // the operator may be writing
					way.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: outer}}
					return c.Status().Update(t.Context(), way)
				})
			}
			c.awaitCondition(t, publisher, v1alpha1.ConditionNetworkReady, metav1.ConditionTrue, "Exposed")
			c.awaitArgument(t, publisher, "--announce")
			pod := c.runPod(t, publisher, "")
			c.until(t, publisher, func() error {
				return errorIf(len(publisher.Status.Addresses) != 1 || objects.LedgerSize(publisher) != 1, "addresses %v, %d blocks", publisher.Status.Addresses, objects.LedgerSize(publisher))
			})
			switch kind { // what a cluster's own parts would do
			case v1alpha1.ExposureNodePort:
				c.get(t, way)
				forward(t, fmt.Sprintf("%s:%d", pod.ip, way.Spec.Ports[0].NodePort), fmt.Sprintf("%s:%d", pod.ip, desired.PortP2P))
			case v1alpha1.ExposureLoadBalancer:
				forward(t, fmt.Sprintf("%s:%d", outer, desired.PortP2P), fmt.Sprintf("%s:%d", pod.ip, desired.PortP2P))
			}
			joins(t, publisher)

			c.change(t, publisher, func(s *v1alpha1.PyrsiaNodeSpec) { s.Network = nil })
			eventually(t, func() error {
				c.setWorkloadStatus(t, publisher, 1, 1)
				c.get(t, publisher)
				err := c.Get(t.Context(), client.ObjectKeyFromObject(way), way)
				return errorIf(!apierrors.IsNotFound(err) || len(publisher.Status.Addresses) > 0, "no longer exposed: %v, %v", err, publisher.Status.Addresses)
			})
		})
	}
}

// joins starts a node that knows of a publisher what its status says.
func joins(t *testing.T, publisher *v1alpha1.PyrsiaNode) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	node, err := pyrsia.Start(ctx, pyrsia.Config{
		Role: control.Mirror, DataDir: t.TempDir(), LedgerKey: publisher.Status.Ledger.Key,
		Bootstrap: publisher.Status.Addresses, P2PListen: []string{"/ip4/127.0.0.1/tcp/0"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, func() error {
		s, err := node.Status(ctx, 0)
		if err != nil {
			return err
		}
		return errorIf(!strings.Contains(s.Ledger.Checkpoint, "\n1\n"), "the ledger did not come by %v", publisher.Status.Addresses)
	})
}

// forward is a Service's way to a pod.
func forward(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() { _, _ = io.Copy(way[0], way[1]); way[0].Close() }()
			}
		}
	}()
}

// awaitArgument waits until the node's container has an argument.
func (c *cluster) awaitArgument(t *testing.T, n *v1alpha1.PyrsiaNode, argument string) {
	t.Helper()
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}}
	c.until(t, set, func() error {
		args := set.Spec.Template.Spec.Containers[0].Args
		return errorIf(!strings.Contains(strings.Join(args, " "), argument), "no %s in %q", argument, args)
	})
}
