package controllers_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// Kubernetes nodes without a mirror are counted and named, and Ready says so; those
// of Windows, of another architecture and virtual ones break nothing.
func TestKubernetesNodes(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	ns := c.namespace(t)
	for _, node := range []*corev1.Node{
		fixtures.KubernetesNode("amd", corev1.LabelArchStable, "amd64"), fixtures.KubernetesNode("arm", corev1.LabelArchStable, "arm64"), fixtures.Tainted(fixtures.KubernetesNode("tainted"), "gpu"),
		fixtures.KubernetesNode("windows", corev1.LabelOSStable, "windows"), fixtures.KubernetesNode("virtual", "type", "virtual-kubelet"),
	} {
		c.create(t, node)
	}
	publisher, mirror := publisherNode(ns, "http://127.0.0.1:1"), mirrorNode(ns)
	mirror.Spec.Tolerations = []corev1.Toleration{{Key: "other", Operator: corev1.TolerationOpExists}}
	mirror.Spec.Mirror = &v1alpha1.Mirror{StartupTaint: true}
	c.create(t, publisher, mirror)
	c.runPod(t, publisher, "")
	c.awaitTemplate(t, mirror)
	pods := map[string]*corev1.Pod{}
	for _, node := range []string{"amd", "arm"} {
		pods[node] = c.placePod(t, mirror, node)
	}
	c.setWorkloadStatus(t, mirror, 2, 2)
	got := c.awaitCondition(t, mirror, v1alpha1.ConditionNodesCovered, metav1.ConditionFalse, "NodesNotCovered")
	if !strings.Contains(got.Message, "1 of 3 Kubernetes nodes") || !strings.Contains(got.Message, "they are tainted (taint gpu:NoSchedule)") {
		t.Errorf("the message is %q", got.Message)
	}
	c.hasEvents(t, ns, "NodesNotCovered")
	c.until(t, mirror, func() error {
		counts := mirror.Status.Nodes
		return errorIf(counts == nil || counts.Total != 3 || counts.Covered != 2, "the counts are %+v", counts)
	})

	// What has joined meanwhile is waited for, and then covered.
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) { s.Tolerations = nil })
	c.create(t, fixtures.Tainted(fixtures.Tainted(fixtures.KubernetesNode("fresh"), desired.TaintNotProven), "gpu"))
	for _, node := range []string{"tainted", "fresh"} {
		pods[node] = c.placePod(t, mirror, node)
	}
	eventually(t, func() error { // the workload is applied anew
		c.setWorkloadStatus(t, mirror, 4, 4)
		c.get(t, mirror)
		return errorIf(!status.IsTrue(mirror, v1alpha1.ConditionNodesCovered), "%s", conditionsText(mirror.Status.Conditions))
	})

	t.Run("start-up taint", func(t *testing.T) { startupTaint(t, c, mirror, pods["fresh"]) })
	t.Run("of two mirrors", func(t *testing.T) { startupTaintOfTwo(t, c, mirror) })
	t.Run("of a machine that takes another one's name", func(t *testing.T) { startupTaintOfANameAgain(t, c, mirror) })
	t.Run("nothing else", func(t *testing.T) { nothingElseOfNodes(t, c) })
}

// isProven plays containerd, which pulls through the mirror of a pod.
func (c *cluster) isProven(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	c.get(t, pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{fixtures.CanaryRuns(true)}}
	must(t, c.Status().Update(t.Context(), pod))
}

func (c *cluster) taints(t *testing.T, name string) string {
	t.Helper()
	node := new(corev1.Node)
	node.Name = name
	c.get(t, node)
	var keys []string
	for _, taint := range node.Spec.Taints {
		if taint.Key != corev1.TaintNodeNotReady { // the API server's own
			keys = append(keys, taint.Key)
		}
	}
	return strings.Join(keys, " ")
}

// The taint stays until the mirror is proven, and its right is an installation's own
// choice: the condition says how to make it.
func startupTaint(t *testing.T, c *cluster, mirror *v1alpha1.PyrsiaNode, pod *corev1.Pod) {
	const both = desired.TaintNotProven + " gpu"
	time.Sleep(time.Second)
	if got := c.taints(t, "fresh"); got != both {
		t.Fatalf("a node without a proof has the taints %s", got)
	}
	asked.optional(" nodes patch")
	c.isProven(t, pod)
	got := c.awaitCondition(t, mirror, v1alpha1.ConditionNodesCovered, metav1.ConditionFalse, "TaintNotRemoved")
	if !strings.Contains(got.Message, "startupTaint.enabled") || c.taints(t, "fresh") != both {
		t.Errorf("the message is %q, the taints are %s", got.Message, c.taints(t, "fresh"))
	}
	data, err := os.ReadFile("../config/startup-taint/startup-taint.yaml")
	must(t, err)
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		obj := new(unstructured.Unstructured)
		must(t, yaml.Unmarshal([]byte(doc), obj))
		if obj.GetKind() != "" { // else it is a comment
			c.create(t, obj)
		}
	}
	eventually(t, func() error {
		got := c.taints(t, "fresh")
		return errorIf(got != "gpu", "the taints are %s", got)
	})
	c.awaitCondition(t, mirror, v1alpha1.ConditionNodesCovered, metav1.ConditionTrue, "Covered")
}

// A node waits for all mirrors that say so and are for it.
func startupTaintOfTwo(t *testing.T, c *cluster, mirror *v1alpha1.PyrsiaNode) {
	second := mirrorNode(mirror.Namespace)
	second.Name = "second"
	second.Spec.NodeSelector = map[string]string{"pool": "a"}
	second.Spec.Mirror = &v1alpha1.Mirror{StartupTaint: true, Port: 5002, Registries: []string{"quay.io"}}
	c.create(t, second)
	c.awaitTemplate(t, second)
	for _, node := range []*corev1.Node{fixtures.KubernetesNode("for-one"), fixtures.KubernetesNode("for-both", "pool", "a")} {
		c.create(t, fixtures.Tainted(node, desired.TaintNotProven))
		c.isProven(t, c.placePod(t, mirror, node.Name))
	}
	c.setWorkloadStatus(t, second, 1, 0)
	c.setWorkloadStatus(t, mirror, 6, 6)
	eventually(t, func() error {
		got := c.taints(t, "for-one")
		return errorIf(got != "", "the taints are %s", got)
	})
	if got := c.taints(t, "for-both"); got != desired.TaintNotProven {
		t.Errorf("the node has the taints %q before the second mirror is proven", got)
	}
	c.isProven(t, c.placePod(t, second, "for-both"))
	c.setWorkloadStatus(t, second, 1, 1)
	eventually(t, func() error {
		got := c.taints(t, "for-both")
		return errorIf(got != "", "the taints are %s", got)
	})
}

// A machine that joins under the name of another one finds the pods of that one, with
// the proof that they had: it proves nothing about this machine.
func startupTaintOfANameAgain(t *testing.T, c *cluster, mirror *v1alpha1.PyrsiaNode) {
	node := fixtures.KubernetesNode("again")
	c.create(t, node)
	pod := c.placePod(t, mirror, "again")
	c.isProven(t, pod)
	c.delete(t, node)
	time.Sleep(time.Second) // the API's times are in whole ones
	c.create(t, fixtures.Tainted(fixtures.KubernetesNode("again"), desired.TaintNotProven))
	time.Sleep(2 * time.Second)
	if got := c.taints(t, "again"); got != desired.TaintNotProven {
		t.Errorf("by the proof of another machine the taints are %q", got)
	}
	c.get(t, pod)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.Now()
	must(t, c.Status().Update(t.Context(), pod))
	eventually(t, func() error {
		got := c.taints(t, "again")
		return errorIf(got != "", "the taints are %s", got)
	})
}

// Only that taint of a node can be changed with the operator's account.
func nothingElseOfNodes(t *testing.T, c *cluster) {
	as := c.as(t, operatorAccount, "system:serviceaccounts", "system:authenticated")
	node := fixtures.Tainted(fixtures.Tainted(fixtures.KubernetesNode("victim", "a", "b"), "gpu"), desired.TaintNotProven)
	node.Annotations = map[string]string{"c": "d"}
	node.Spec.ProviderID, node.Spec.PodCIDR, node.Spec.PodCIDRs = "", "10.0.0.0/24", []string{"10.0.0.0/24"}
	c.create(t, node)
	index := map[string]int{}
	c.get(t, node)
	for i, taint := range node.Spec.Taints {
		index[taint.Key] = i
	}
	patch := func(kind types.PatchType, text string) error {
		return as.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "victim"}}, client.RawPatch(kind, []byte(text)), client.DryRunAll)
	}
	remove := fmt.Sprintf(`{"op":"remove","path":"/spec/taints/%d"}`, index[desired.TaintNotProven])
	eventually(t, func() error { // a new policy takes a moment
		return says(patch(types.MergePatchType, `{"metadata":{"labels":{"x":"y"}}}`), "pyrsia-operator-startup-taint")
	})
	with := func(operation string) string { return "[" + operation + "," + remove + "]" }
	for name, text := range map[string]string{
		"a label":                    with(`{"op":"add","path":"/metadata/labels/x","value":"y"}`),
		"a label less":               with(`{"op":"remove","path":"/metadata/labels/a"}`),
		"another label":              with(`{"op":"replace","path":"/metadata/labels/a","value":"y"}`),
		"an annotation":              with(`{"op":"replace","path":"/metadata/annotations/c","value":"y"}`),
		"a finalizer":                with(`{"op":"add","path":"/metadata/finalizers","value":["x.example/y"]}`),
		"cordoned":                   with(`{"op":"add","path":"/spec/unschedulable","value":true}`),
		"a provider":                 with(`{"op":"add","path":"/spec/providerID","value":"x"}`),
		"another taint less":         fmt.Sprintf(`[{"op":"remove","path":"/spec/taints/%d"}]`, index["gpu"]),
		"a taint more":               `[{"op":"add","path":"/spec/taints/-","value":{"key":"x","effect":"NoExecute"}}]`,
		"another value of a taint":   fmt.Sprintf(`[{"op":"add","path":"/spec/taints/%d/value","value":"x"},%s]`, index["gpu"], remove),
		"the taint with NoExecute":   fmt.Sprintf(`[{"op":"replace","path":"/spec/taints/%d/effect","value":"NoExecute"}]`, index[desired.TaintNotProven]),
		"all taints":                 `[{"op":"remove","path":"/spec/taints"}]`,
		"the taint in another place": fmt.Sprintf(`[%s,{"op":"add","path":"/spec/taints/0","value":{"key":"x","effect":"NoSchedule"}}]`, remove),
	} {
		err := patch(types.JSONPatchType, text)
		if err == nil || !strings.Contains(err.Error(), "pyrsia-operator-startup-taint") || !strings.Contains(err.Error(), "the operator may take") {
			t.Errorf("%s: the API server says %v", name, err)
		}
	}
	if err := patch(types.JSONPatchType, "["+remove+"]"); err != nil {
		t.Errorf("the taint itself: %v", err)
	}
	status := as.Status().Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "victim"}}, client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Terminated"}}`)))
	if status == nil || as.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "victim"}}) == nil {
		t.Errorf("its status can be written (%v), or it can be deleted", status)
	}
	// Others are none of the policy's business.
	if err := c.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "victim"}}, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`))); err != nil {
		t.Error(err)
	}
}
