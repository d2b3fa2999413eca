package controllers_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// A missing proof is shown, also by Ready, and is not the mirror's fault: its
// pods count as ready and are asked, and their roll-out goes on.
func TestMissingProofHoldsUpNothing(t *testing.T) {
	c, ns := ownNamespace(t)
	publisher, mirror := publisherNode(ns, "http://127.0.0.1:1"), mirrorNode(ns)
	c.create(t, publisher, mirror)
	c.runPod(t, publisher, "")
	template := c.awaitTemplate(t, mirror)
	i := slices.IndexFunc(template.Spec.Containers, func(c corev1.Container) bool { return c.Name == objects.ContainerCanary })
	if i < 0 || template.Spec.Containers[i].ImagePullPolicy != corev1.PullAlways || template.Spec.Containers[i].Image != canary.Image(string(mirror.UID)) {
		t.Fatalf("the pods' containers are %+v", template.Spec.Containers)
	}
	pods := map[string]*corev1.Pod{}
	update := func(name string, status corev1.ContainerStatus) {
		t.Helper()
		want := fixtures.WithCanary(mirror, name, status)
		if pods[name] == nil {
			pods[name] = want.DeepCopy()
			c.create(t, pods[name])
		}
		eventually(t, func() error {
			c.get(t, pods[name])
			pods[name].Status = want.Status
			return c.Status().Update(t.Context(), pods[name])
		})
	}
	maxUnavailable := func(want string) {
		t.Helper()
		set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: mirror.Name}}
		c.until(t, set, func() error {
			got := set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable
			return errorIf(got.String() != want, "maxUnavailable is %s, want %s", got, want)
		})
		c.setDaemonSetStatus(t, ns, mirror.Name, 2, 1) // a pod that lacks the proof is not ready
		c.setDaemonSetStatus(t, ns, desired.FrontendName(mirror), 2, 2)
	}
	update("a", fixtures.CanaryRuns(true))
	update("b", fixtures.CanaryWaits("ContainerCreating"))
	maxUnavailable("10%")
	c.awaitCondition(t, mirror, v1alpha1.ConditionWorkloadReady, metav1.ConditionTrue, "PodsReady")
	wasReady := meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionWorkloadReady).LastTransitionTime
	time.Sleep(1100 * time.Millisecond) // times of conditions are in seconds
	update("b", fixtures.CanaryWaits("ErrImagePull"))
	maxUnavailable("2")
	got := c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionFalse, "NotProven")
	if !strings.HasSuffix(got.Message, " On b") {
		t.Errorf("it says: %s", got.Message)
	}
	c.hasEvents(t, ns, "NotProven")
	c.awaitCondition(t, mirror, v1alpha1.ConditionWorkloadReady, metav1.ConditionTrue, "PodsReady")
	if is := meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionWorkloadReady).LastTransitionTime; !is.Equal(&wasReady) {
		t.Errorf("the workload was not ready for a moment: since %s, and then since %s", wasReady, is)
	}
	if n := mirror.Status.Nodes; n == nil || n.Ready != 2 || n.Configured != 2 || n.Proven != 1 {
		t.Errorf("the counts are %+v", n)
	}
	update("b", fixtures.CanaryWaits("ImagePullBackOff"))
	c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionFalse, "NotProven")
	update("b", fixtures.CanaryRuns(true)) // somebody has mended it
	maxUnavailable("10%")
	c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionTrue, "Proven")
	update("a", fixtures.CanaryRuns(false)) // containerd was started
	c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionUnknown, "Proving")
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Containerd = v1alpha1.ContainerdUnmanaged })
	c.until(t, mirror, func() error {
		return errorIf(meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionContainerdUsesMirror) != nil, "nothing is to be proven any more, and the condition is still there")
	})
}
