package controllers_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// runControllers runs some of the cluster's own controllers, which an API server
// alone does not have.
func (c *cluster) runControllers(t *testing.T, names ...string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(config, c.env.KubeConfig, 0o600))
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kube-controller-manager"),
		"--kubeconfig="+config, "--controllers="+strings.Join(names, ","), "--leader-elect=false", "--secure-port=0")
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("kube-controller-manager:\n%s", out.Bytes()[max(0, out.Len()-4<<10):])
		}
	})
}

// What the cluster's own controllers make of a mirror and of a publisher: a pod for
// each Linux machine, whatever its taints, and a new pod in place of one that waited
// for a machine that there never was.
func TestByTheClustersControllers(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	for _, node := range []*corev1.Node{
		fixtures.KubernetesNode("amd", corev1.LabelArchStable, "amd64"), fixtures.KubernetesNode("arm", corev1.LabelArchStable, "arm64"),
		fixtures.Tainted(fixtures.KubernetesNode("control"), "node-role.kubernetes.io/control-plane"), fixtures.Tainted(fixtures.KubernetesNode("fresh"), desired.TaintNotProven),
		fixtures.KubernetesNode("windows", corev1.LabelOSStable, "windows"), fixtures.KubernetesNode("virtual", "type", "virtual-kubelet"),
	} {
		c.create(t, node)
	}
	c.runControllers(t, "daemonset-controller", "statefulset-controller")
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	ns := c.namespace(t)

	mirror := lonely(t, ns, "mirror")
	c.create(t, mirror)
	for _, of := range []string{"mirror", "frontend"} {
		eventually(t, func() error {
			var got []string
			for _, p := range c.podsOf(t, mirror, of) {
				got = append(got, objects.NodeOf(p))
			}
			slices.Sort(got)
			return errorIf(!slices.Equal(got, []string{"amd", "arm", "control", "fresh"}), "the pods of the %s are for %v", of, got)
		})
	}
	c.until(t, mirror, func() error {
		counts := mirror.Status.Nodes
		return errorIf(counts == nil || counts.Desired != 4 || counts.Total != 4, "the counts are %+v", counts)
	})

	publisher := publisherNode(ns, "http://127.0.0.1:1")
	publisher.Spec.NodeSelector = map[string]string{"disk": "none"}
	c.create(t, publisher)
	waits := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: publisher.Name + "-0"}}
	chosen := func(disk string) {
		t.Helper()
		c.until(t, waits, func() error {
			got := waits.Spec.NodeSelector["disk"]
			return errorIf(got != disk || waits.DeletionTimestamp != nil, "the pod waits for a disk %s", got)
		})
	}
	chosen("none")
	c.change(t, publisher, func(s *v1alpha1.PyrsiaNodeSpec) { s.NodeSelector["disk"] = "ssd" })
	chosen("ssd")
	eventually(t, func() error {
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: publisher.Name}}
		c.get(t, set)
		return errorIf(*set.Spec.Replicas != 1, "it stays without a pod")
	})
}

func (c *cluster) podsOf(t *testing.T, n *v1alpha1.PyrsiaNode, component string) []corev1.Pod {
	t.Helper()
	pods := new(corev1.PodList)
	must(t, c.List(t.Context(), pods, client.InNamespace(n.Namespace), client.MatchingLabels(objects.Labels(n, component))))
	return pods.Items
}
