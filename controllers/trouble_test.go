package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// The same from the objects of a cluster: the pods of the frontends are looked at.
func TestTroubleOfFrontendsIsACondition(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, _ := c.spread(t, "a")
	c.setWorkloadStatus(t, mirror, 1, 0)
	c.until(t, mirror, func() error {
		text := conditionsText(mirror.Status.Conditions)
		return errorIf(!strings.Contains(text, "the cluster makes 0 of 1 pods of "+desired.FrontendName(mirror)), "%s", text)
	})
	front := fixtures.PodOn(mirror, "frontend", "")
	c.create(t, front)
	front.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse}}
	must(t, c.Status().Update(t.Context(), front))
	c.until(t, mirror, func() error {
		text := conditionsText(mirror.Status.Conditions)
		return errorIf(!strings.Contains(text, "pod "+front.Name+" cannot be placed"), "%s", text)
	})
}

// A pod that never got ready keeps a StatefulSet from using a corrected template: it
// is made to go, and the next one comes. One that is ready, or of the newest
// template, is left to the StatefulSet.
func TestBrokenPublisherIsReplaced(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	n := publisherNode(c.namespace(t), "http://127.0.0.1:1")
	c.create(t, n)
	template := c.awaitTemplate(t, n)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}}
	// The cluster's controllers, and a pod that waits for a Kubernetes node.
	sees := func(revision string) {
		t.Helper()
		c.until(t, set, func() error {
			set.Status.ObservedGeneration, set.Status.UpdateRevision, set.Status.Replicas = set.Generation, revision, 1
			return c.Status().Update(t.Context(), set)
		})
	}
	replicas := func(want int32) {
		t.Helper()
		c.until(t, set, func() error {
			return errorIf(*set.Spec.Replicas != want, "%d replicas, want %d", *set.Spec.Replicas, want)
		})
	}
	sees("first")
	labels := map[string]string{appsv1.ControllerRevisionHashLabelKey: "first"}
	for k, v := range template.Labels {
		labels[k] = v
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name + "-0", Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: "pyrsia"}}}}
	c.create(t, pod)
	c.awaitCondition(t, n, v1alpha1.ConditionWorkloadReady, metav1.ConditionUnknown, "Rollout")
	if c.get(t, set); *set.Spec.Replicas != 1 {
		t.Fatal("a pod of the newest template is made to go")
	}

	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} })
	c.until(t, set, func() error {
		return errorIf(set.Spec.Template.Spec.NodeSelector["disk"] != "ssd", "the template is not corrected")
	})
	sees("second")
	replicas(0)
	c.deletePod(pod) // as the StatefulSet's controller does
	replicas(1)

	// A ready one of the template before is replaced by the cluster itself.
	pod = pod.DeepCopy()
	pod.ResourceVersion, pod.UID = "", ""
	c.create(t, pod)
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(t, c.Status().Update(t.Context(), pod))
	sees("third")
	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations = map[string]string{"example.com/a": "b"} })
	c.until(t, set, func() error {
		return errorIf(set.Spec.Template.Annotations["example.com/a"] != "b", "the template is not changed")
	})
	sees("fourth")
	replicas(1)
}

// A load balancer that tells its addresses in another order, or loses them for a
// moment, does not restart the publisher: they are arguments of its pod.
func TestLoadBalancerThatBlinks(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	n := publisherNode(c.namespace(t), newUpstream(t).URL)
	n.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureLoadBalancer}}
	c.create(t, n)
	way := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: desired.ExposureName(n)}}
	gives := func(ips ...string) {
		t.Helper()
		c.until(t, way, func() error {
			way.Status.LoadBalancer.Ingress = nil
			for _, ip := range ips {
				way.Status.LoadBalancer.Ingress = append(way.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
			return c.Status().Update(t.Context(), way)
		})
	}
	gives("192.0.2.2", "192.0.2.1")
	c.awaitCondition(t, n, v1alpha1.ConditionNetworkReady, metav1.ConditionTrue, "Exposed")
	c.awaitArgument(t, n, "--announce 192.0.2.1:4001 --announce 192.0.2.2:4001")
	c.runPod(t, n, "")
	c.until(t, n, func() error { return errorIf(len(n.Status.Addresses) != 2, "addresses %v", n.Status.Addresses) })
	before := c.workloadGeneration(t, n)
	addresses := slices.Clone(n.Status.Addresses)
	same := func() {
		t.Helper()
		if c.get(t, n); c.workloadGeneration(t, n) != before || !slices.Equal(n.Status.Addresses, addresses) {
			t.Errorf("the publisher is restarted, with the addresses %v", n.Status.Addresses)
		}
	}
	gives("192.0.2.1", "192.0.2.2")
	gives()
	got := c.awaitCondition(t, n, v1alpha1.ConditionNetworkReady, metav1.ConditionUnknown, "AddressLost")
	if !strings.Contains(got.Message, desired.ExposureName(n)) {
		t.Errorf("the message is %q", got.Message)
	}
	same()
	gives("192.0.2.2", "192.0.2.1")
	c.awaitCondition(t, n, v1alpha1.ConditionNetworkReady, metav1.ConditionTrue, "Exposed")
	same()

	gives("192.0.2.9") // is another one
	c.awaitArgument(t, n, "--announce 192.0.2.9:4001")
}

// A namespace whose PyrsiaNodes have set the Kubernetes nodes up is not deleted
// before they are, and then is.
func TestNamespaceWithMirrorsIsKept(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: mirror.Namespace}}
	eventually(t, func() error { // the policy takes a moment
		return says(c.Delete(t.Context(), ns, client.DryRunAll), "kubectl -n "+ns.Name+" delete pyrsianodes --all")
	})
	if err := c.Delete(t.Context(), ns); err == nil {
		t.Fatal("the namespace is deleted")
	}
	other := c.namespace(t) // has no PyrsiaNode
	if err := c.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}); err != nil {
		t.Error(err)
	}

	c.delete(t, mirror)
	for _, p := range pods {
		c.deletePod(p)
	}
	cleanup, nodes := c.awaitCleanup(t, mirror, standardPath)
	c.cleanedUp(t, mirror, cleanup, nodes...)
	c.awaitGone(t, mirror)
	eventually(t, func() error { return c.Delete(t.Context(), ns) })
}

// What a deletion leaves behind is also told where the operator is: a namespace that
// goes takes no event.
func TestWhatIsLeftIsToldOutsideOfItsNamespace(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a")
	// As after a deletion that no policy has refused.
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: mirror.Namespace}}
	c.get(t, mirror)
	finalizers := mirror.Finalizers
	held := func(by []string) {
		change(t, c, mirror, func(n *v1alpha1.PyrsiaNode) { n.Finalizers = by })
	}
	eventually(t, func() error { // the operator may put it back meanwhile
		held(nil)
		return c.Delete(t.Context(), ns)
	})
	held(finalizers)
	for _, p := range pods { // envtest has no controller of namespaces
		c.deletePod(p)
	}
	c.delete(t, mirror)
	c.awaitGone(t, mirror)
	eventually(t, func() error {
		list := new(eventsv1.EventList)
		if err := c.List(t.Context(), list, client.InNamespace("pyrsia-system")); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == v1alpha1.ConditionContainerdNotRestored && strings.Contains(e.Note, "uninstall --all --owner "+desired.SetupOwner(mirror)) && strings.Contains(e.Note, "the namespace goes before the PyrsiaNode") {
				return nil
			}
		}
		return fmt.Errorf("no event tells it: %d events", len(list.Items))
	})
}

// While a port changes, the frontends answer at the one before as well: on a
// Kubernetes node whose mirror is not replaced yet, containerd asks there.
func TestFormerPortIsServedUntilAllAreReplaced(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, _ := c.spread(t, "a", "b")
	before := fmt.Sprintf("--former 127.0.0.1:%d", desired.MirrorSpec(mirror).Port)
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Port = 5011 })
	args := func() string { return strings.Join(c.frontendArgs(t, mirror), " ") }
	eventually(t, func() error {
		got := args()
		return errorIf(!strings.Contains(got, "--listen 127.0.0.1:5011 ") || !strings.Contains(got, before), "%s", got)
	})
	for _, node := range []string{"a", "b"} {
		c.create(t, fixtures.PodOn(mirror, "frontend", node))
	}
	eventually(t, func() error { // all are replaced
		c.setWorkloadStatus(t, mirror, 2, 2)
		got := args()
		return errorIf(!strings.Contains(got, "--listen 127.0.0.1:5011 ") || strings.Contains(got, "--former"), "%s", got)
	})
}

// A machine that does not answer delays the end of an unused former port by some
// minutes, and not for ever; the condition names the machine.
func TestFormerPortDoesNotWaitForADeadMachine(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	for _, name := range []string{"a", "dead"} {
		c.create(t, fixtures.KubernetesNode(name))
		c.setReady(t, name, corev1.ConditionTrue)
	}
	mirror, _ := c.spread(t, "a", "dead")
	before := fmt.Sprintf("--former 127.0.0.1:%d", desired.MirrorSpec(mirror).Port)
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Port = 5011 })
	args := func() string { return strings.Join(c.frontendArgs(t, mirror), " ") }
	eventually(t, func() error {
		got := args()
		return errorIf(!strings.Contains(got, before), "%s", got)
	})
	for _, node := range []string{"a", "dead"} {
		c.create(t, fixtures.PodOn(mirror, "frontend", node))
	}
	replaced := func() { // but on one machine
		for _, name := range []string{mirror.Name, desired.FrontendName(mirror)} {
			c.setDaemonSetStatus(t, mirror.Namespace, name, 2, 1)
			set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: mirror.Namespace, Name: name}}
			c.until(t, set, func() error {
				set.Status.UpdatedNumberScheduled = 1
				return c.Status().Update(t.Context(), set)
			})
		}
	}
	eventually(t, func() error {
		replaced()
		c.get(t, mirror)
		message := meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionWorkloadReady).Message
		return errorIf(!strings.Contains(message, "is answered too until the pods on a, dead are replaced") || !strings.Contains(args(), before), "%s", message+": "+args())
	})
	c.setReady(t, "dead", corev1.ConditionUnknown)
	eventually(t, func() error {
		replaced()
		got := args()
		return errorIf(strings.Contains(got, "--former"), "%s", got)
	})
}

// setReady says since an hour whether a Kubernetes node is ready.
func (c *cluster) setReady(t *testing.T, name string, ready corev1.ConditionStatus) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.until(t, node, func() error {
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour))}}
		return c.Status().Update(t.Context(), node)
	})
}
