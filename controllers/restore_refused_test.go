package controllers_test

import (
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A second mirror that is refused by a first one, or by the holder of its port,
// says so in its condition, with the message of the refused container.
func TestRefusedSetUpIsACondition(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a", "b")
	for code, reason := range map[int32]string{control.ExitRegistryTaken: "RegistryTaken", control.ExitPortTaken: "PortTaken", control.ExitSetUpRefused: "SetUpRefused"} {
		ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: "pyrsia: said the container\n"}}
		for _, p := range pods {
			c.get(t, p)
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{
				Name: objects.ContainerSetUp, LastTerminationState: ended, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			}}}
			must(t, c.Status().Update(t.Context(), p))
		}
		c.setWorkloadStatus(t, mirror, 2, 0)
		got := c.awaitCondition(t, mirror, v1alpha1.ConditionWorkloadReady, metav1.ConditionFalse, reason)
		if !strings.HasPrefix(got.Message, "on 2 Kubernetes nodes; containerd is not set up on the Kubernetes node ") || !strings.HasSuffix(got.Message, ": said the container") {
			t.Errorf("the message is %q", got.Message)
		}
		c.hasEvents(t, mirror.Namespace, reason)
	}
}

// refuseHostPaths is a policy of a cluster's administrator.
func (c *cluster) refuseHostPaths(t *testing.T, namespace string) {
	t.Helper()
	must(t, admissionv1.AddToScheme(c.scheme))
	name := "no-host-paths-" + namespace
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: new(admissionv1.Fail),
		MatchConstraints: &admissionv1.MatchResources{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"daemonsets"}},
			}}},
		},
		Validations: []admissionv1.Validation{{Expression: "!object.spec.template.spec.volumes.exists(v, has(v.hostPath))", Message: "host paths are not allowed here"}},
	}}
	c.create(t, policy, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}})
	t.Cleanup(func() {
		for _, obj := range []client.Object{&admissionv1.ValidatingAdmissionPolicyBinding{}, policy} {
			obj.SetName(name)
			_ = c.Delete(t.Context(), obj)
		}
	})
	eventually(t, func() error { // the API server compiles it in its own time
		set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "try"}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "a", Image: "a"}},
				Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}},
			}},
		}}
		err := c.Create(t.Context(), set, client.DryRunAll)
		return errorIf(err == nil, "the policy does not hold yet")
	})
}

// A policy that refuses the clean-up is a condition that says what to do, and
// after a while an event that says what is left: never an eternal finalizer.
func TestCleanupThatIsRefusedHasABound(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a", "b")
	c.refuseHostPaths(t, mirror.Namespace)
	c.deletePod(pods["b"])
	c.setWorkloadStatus(t, mirror, 1, 1)
	refused := func() {
		t.Helper()
		got := c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdNotRestored, metav1.ConditionTrue, "CleanupRefused")
		if !strings.Contains(got.Message, "host paths are not allowed here") {
			t.Errorf("the message is %q", got.Message)
		}
	}
	refused() // during its life, because of the node that was removed
	c.hasEvents(t, mirror.Namespace, v1alpha1.ConditionContainerdNotRestored)
	c.deletePod(pods["a"])
	c.delete(t, mirror)
	c.until(t, mirror, func() error {
		condition := meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionContainerdNotRestored)
		return errorIf(mirror.DeletionTimestamp.IsZero() || condition == nil || !strings.Contains(condition.Message, "the PyrsiaNode goes without"), "deleted at %v: %v", mirror.DeletionTimestamp, condition)
	})
	refused()

	// The same operator, when the time is over.
	told := events.NewFakeRecorder(10)
	now := func() time.Time { return time.Now().Add(11 * time.Minute) }
	later := pyrsianode.New(pyrsianode.Config{
		Client: c.WithWatch, Live: c.WithWatch, Recorder: told, Hosts: pyrsianode.DefaultHostRules("pyrsia-system"),
		Nodes: nodeclient.NewNodes(c.WithWatch, nil, now), Now: now,
	})
	if _, err := later.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(mirror)}); err != nil {
		t.Fatal(err)
	}
	c.awaitGone(t, mirror)
	if said := <-told.Events; !strings.Contains(said, v1alpha1.ConditionContainerdNotRestored) || !strings.Contains(said, "pyrsia containerd uninstall --all --owner "+desired.SetupOwner(mirror)) {
		t.Errorf("the event is %q", said)
	}
}

// The creator of a PyrsiaNode writes its finalizers. A mirror's finalizer on a
// publisher, in a namespace that is not allowed to reach the Kubernetes nodes,
// creates nothing that reaches them, and holds nothing up.
func TestFinalizerGivesAPublisherNoCleanup(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}} // without the label
	c.create(t, ns)
	n := publisherNode(ns.Name, "http://127.0.0.1:1")
	n.Finalizers = []string{finalizerOfMirrors}
	c.create(t, n)
	c.delete(t, n)
	c.awaitGone(t, n)
	sets := new(appsv1.DaemonSetList)
	if err := c.List(t.Context(), sets, client.InNamespace(ns.Name)); err != nil || len(sets.Items) > 0 {
		t.Errorf("DaemonSets that reach the Kubernetes nodes: %v, %v", sets.Items, err)
	}
}
