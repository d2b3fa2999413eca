package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// Control keys are rotated while requests run: none fails, whether the node or
// the operator has the new keys first, and pods are not restarted.
func TestControlKeysAreRotated(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	o, err := c.runOperator(operatorOptions{wrap: func(next http.RoundTripper) http.RoundTripper { return next }})
	must(t, err)
	defer o.stop()
	ns := c.namespace(t)
	publisher, mirror := publisherNode(ns, "http://127.0.0.1:1"), mirrorNode(ns)
	c.create(t, publisher, mirror)
	pods := map[*v1alpha1.PyrsiaNode]*pod{publisher: c.runPod(t, publisher, ""), mirror: c.runPod(t, mirror, "")}
	c.awaitCurrent(t, publisher)
	c.awaitCurrent(t, mirror)
	generations := map[string]int64{}
	for n := range pods {
		generations[n.Name] = c.workloadGeneration(t, n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asked := atomic.Int64{}
	nodes := nodeclient.NewNodes(c.WithWatch, o.keys, time.Now)
	for n, p := range pods {
		n := n.DeepCopy() // the other is read again and again
		asking.Go(func() {
			for ctx.Err() == nil {
				// A new connection each time, as after a restart of either side.
				client, err := nodes.Client(n, p.ip)
				if err == nil {
					client.Close()
					_, err = client.Status(context.Background(), 0)
				}
				if err != nil {
					t.Errorf("request %d to %s: %v", asked.Load(), n.Name, err)
					return
				}
				asked.Add(1)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	used := map[string]bool{}
	for range 3 {
		used[o.keys.Seeds().Fingerprint()] = true
		before := asked.Load()
		o.keys.Now = func() time.Time { return time.Now().Add(time.Duration(len(used)) * 365 * 24 * time.Hour) }
		if err := o.keys.Refresh(t.Context()); err != nil { // as Start does in time
			t.Fatal(err)
		}
		fingerprint := o.keys.Seeds().Fingerprint()
		if used[fingerprint] {
			t.Fatal("the keys are the same")
		}
		eventually(t, func() error { // the operator writes the Secrets; the nodes do not have them yet
			for n := range pods {
				c.get(t, n)
				if got := conditionsText(n.Status.Conditions); !strings.Contains(got, fingerprint) || asked.Load() < before+20 {
					return fmt.Errorf("%s: %s", n.Name, got)
				}
			}
			return nil
		})
		for n, p := range pods { // the kubelet brings them
			c.refreshKeys(t, n, p)
		}
		between := asked.Load()
		eventually(t, func() error { return errorIf(asked.Load() < between+20, "no requests") })
	}
	cancel()
	asking.Wait()
	t.Logf("%d requests with new connections in 3 rotations", asked.Load())
	for n := range pods {
		if got := c.workloadGeneration(t, n); got != generations[n.Name] {
			t.Errorf("the pods of %s were replaced", n.Name)
		}
		c.awaitCondition(t, n, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	}
}

// refreshKeys does what a kubelet does some time after a Secret has changed.
func (c *cluster) refreshKeys(t *testing.T, n *v1alpha1.PyrsiaNode, p *pod) {
	t.Helper()
	template, dir := c.awaitTemplate(t, n), t.TempDir()
	for file, mounted := range map[string]string{p.config.ControlKeyFile: "/keys/" + desired.NodeKeyFile, p.config.OperatorKeyFile: "/keys/" + desired.OperatorKeyFile} {
		must(t, os.Rename(c.secretFile(t, n, template, dir, mounted), file))
	}
}

func (c *cluster) workloadGeneration(t *testing.T, n *v1alpha1.PyrsiaNode) int64 {
	t.Helper()
	var obj client.Object = new(appsv1.DaemonSet)
	if n.Spec.Role == v1alpha1.RolePublisher {
		obj = new(appsv1.StatefulSet)
	}
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(n), obj))
	return obj.GetGeneration()
}
