package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/canary"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// canaryWaits, canaryRuns and canaryReady are states of a canary's container.
func canaryWaits(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: containerCanary, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func canaryRuns(ready bool) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: containerCanary, Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

// withCanary is a pod of a mirror whose mirror serves and has set containerd up.
func withCanary(mirror *v1alpha1.PyrsiaNode, node string, status corev1.ContainerStatus) *corev1.Pod {
	p := podOn(mirror, "mirror", node)
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning,
		InitContainerStatuses: []corev1.ContainerStatus{
			{Name: containerNode, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
			{Name: containerSetUp, Ready: true, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}},
		},
		ContainerStatuses: []corev1.ContainerStatus{
			{Name: containerKeep, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, status,
		},
	}
	ready := corev1.ConditionFalse
	if status.Ready {
		ready = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	return p
}

func TestProofOfOnePod(t *testing.T) {
	mirror := node(v1alpha1.RoleMirror, "mirror")
	old := podOn(mirror, "mirror", "a")
	old.Spec.Containers = []corev1.Container{{Name: "hold", Image: "pyrsia:v0.1.0"}}
	for name, tc := range map[string]struct {
		pod         *corev1.Pod
		want        proofState
		lacks, hold bool // the proof alone; up a roll-out
	}{
		"proven":                   {withCanary(mirror, "a", canaryRuns(true)), proofGiven, false, false},
		"to be asked again":        {withCanary(mirror, "a", canaryRuns(false)), proofAwaited, true, false},
		"new":                      {withCanary(mirror, "a", canaryWaits("ContainerCreating")), proofAwaited, true, false},
		"the pull has failed":      {withCanary(mirror, "a", canaryWaits("ErrImagePull")), proofFailed, true, true},
		"and is to be tried again": {withCanary(mirror, "a", canaryWaits("ImagePullBackOff")), proofFailed, true, true},
		"started too often":        {withCanary(mirror, "a", canaryWaits("CrashLoopBackOff")), proofAwaited, true, true},
		"of v0.1.0":                {old, proofAwaited, false, false},
	} {
		if got := proofOf(mirror, *tc.pod); got != tc.want || lacksProofAlone(*tc.pod) != tc.lacks || holdsUp(*tc.pod) != tc.hold {
			t.Errorf("%s: the proof is %d, want %d; lacks it alone: %t; holds up a roll-out: %t", name, got, tc.want, lacksProofAlone(*tc.pod), holdsUp(*tc.pod))
		}
	}
	other := withCanary(mirror, "a", canaryRuns(true))
	other.Spec.Containers[0].Image = "cache.example/" + other.Spec.Containers[0].Image
	if got := proofOf(mirror, *other); got != proofRewritten {
		t.Errorf("an image that was rewritten: %d", got)
	}
	other.Spec.Containers[0].Image = canary.Registry(string(mirror.UID)) + "/canary@sha256:0123"
	if got := proofOf(mirror, *other); got != proofGiven {
		t.Errorf("an image of another version: %d", got)
	}
	for what, spoil := range map[string]func(*corev1.PodStatus){
		"the mirror": func(s *corev1.PodStatus) { s.InitContainerStatuses[0].Ready = false },
		"the set-up": func(s *corev1.PodStatus) {
			s.InitContainerStatuses[1].State.Terminated.ExitCode = control.ExitPortTaken
		},
		"what keeps the set-up ": func(s *corev1.PodStatus) { s.ContainerStatuses[0].Ready = false },
	} {
		p := withCanary(mirror, "a", canaryWaits("ErrImagePull"))
		spoil(&p.Status)
		if lacksProofAlone(*p) || holdsUp(*p) {
			t.Errorf("%s is not there either, and the pod counts as ready", what)
		}
	}
}

// The condition names where containerd goes elsewhere, and what mends it, before
// it speaks of what is only awaited.
func TestContainerdUsesMirror(t *testing.T) {
	mirror := node(v1alpha1.RoleMirror, "mirror")
	mirror.Spec.Mirror = &v1alpha1.Mirror{ContainerdConfigPath: "/etc/rancher/certs.d"}
	frontends := appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2}
	judged := func(desired int, pods ...*corev1.Pod) *metav1.Condition {
		var list []corev1.Pod
		for _, p := range pods {
			list = append(list, *p)
		}
		mirror.Status.Nodes = &v1alpha1.NodeCounts{Desired: int32(desired)}
		judgeProof(mirror, list, frontends)
		return meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionContainerdUsesMirror).DeepCopy()
	}
	proven := func(name string) *corev1.Pod { return withCanary(mirror, name, canaryRuns(true)) }
	failed := func(name string) *corev1.Pod { return withCanary(mirror, name, canaryWaits("ErrImagePull")) }
	awaited := func(name string) *corev1.Pod { return withCanary(mirror, name, canaryWaits("ContainerCreating")) }
	going := proven("c")
	going.DeletionTimestamp = &metav1.Time{}
	rewritten := proven("r")
	rewritten.Spec.Containers[0].Image = "cache.example/canary"
	var many []*corev1.Pod
	for i := range 12 {
		many = append(many, failed(fmt.Sprintf("node-%02d", i)))
	}
	for name, tc := range map[string]struct {
		got          *metav1.Condition
		status       metav1.ConditionStatus
		reason, ends string
		says         string
	}{
		"all":           {judged(2, proven("a"), proven("b")), metav1.ConditionTrue, "Proven", "on 2 of 2 Kubernetes nodes", ""},
		"one goes":      {judged(1, proven("a"), going), metav1.ConditionTrue, "Proven", "on 1 of 1 Kubernetes nodes", ""},
		"a pod to come": {judged(2, proven("a")), metav1.ConditionUnknown, "Proving", "on 1 of 2 Kubernetes nodes", ""},
		"one is new":    {judged(2, proven("a"), awaited("b")), metav1.ConditionUnknown, "Proving", " on b", ""},
		"one fails":     {judged(3, proven("a"), awaited("b"), failed("c")), metav1.ConditionFalse, "NotProven", " On c", `have config_path = "/etc/rancher/certs.d"`},
		"many fail":     {judged(12, many...), metav1.ConditionFalse, "NotProven", "node-08, node-09 and 2 more", ""},
		"rewritten":     {judged(2, rewritten, failed("c")), metav1.ConditionFalse, "CanaryRewritten", " On r", "canary.pyrsia.invalid alone"},
		"none is there": {judged(0), metav1.ConditionUnknown, "Proving", "", ""},
	} {
		if c := tc.got; c.Status != tc.status || c.Reason != tc.reason || !strings.HasSuffix(c.Message, tc.ends) || !strings.Contains(c.Message, tc.says) {
			t.Errorf("%s: %s %s: %s", name, c.Status, c.Reason, c.Message)
		}
	}
	judged(3, proven("a"), awaited("b"), failed("c"))
	frontends.UpdatedNumberScheduled = 1
	if c := judged(3, proven("a"), awaited("b"), failed("c")); c.Status != metav1.ConditionUnknown || c.Reason != "Rollout" {
		t.Errorf("while the frontends are replaced: %s %s: %s", c.Status, c.Reason, c.Message)
	}
	if mirror.Status.Nodes.Proven != 1 {
		t.Errorf("%d are proven, want 1", mirror.Status.Nodes.Proven)
	}
}

// The proof that is missing is told, also by Ready, and is no fault of the
// mirror: its pods count as ready and are asked, and their roll-out goes on.
func TestMissingProofHoldsUpNothing(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns := c.namespace(t)
	publisher, mirror := publisherNode(ns, "http://127.0.0.1:1"), mirrorNode(ns)
	c.create(t, publisher, mirror)
	c.runPod(t, publisher, "")
	template := c.awaitTemplate(t, mirror)
	i := slices.IndexFunc(template.Spec.Containers, func(c corev1.Container) bool { return c.Name == containerCanary })
	if i < 0 || template.Spec.Containers[i].ImagePullPolicy != corev1.PullAlways || template.Spec.Containers[i].Image != canary.Image(string(mirror.UID)) {
		t.Fatalf("the pods' containers are %+v", template.Spec.Containers)
	}
	pods := map[string]*corev1.Pod{}
	update := func(name string, status corev1.ContainerStatus) {
		t.Helper()
		want := withCanary(mirror, name, status)
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
		eventually(t, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(set), set); err != nil {
				return err
			}
			if got := set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable; got.String() != want {
				return fmt.Errorf("maxUnavailable is %s, want %s", got, want)
			}
			return nil
		})
		c.setDaemonSetStatus(t, ns, mirror.Name, 2, 1) // a pod that lacks the proof is not ready
		c.setDaemonSetStatus(t, ns, frontendName(mirror), 2, 2)
	}
	update("a", canaryRuns(true))
	update("b", canaryWaits("ContainerCreating"))
	maxUnavailable("10%")
	c.awaitCondition(t, mirror, v1alpha1.ConditionWorkloadReady, metav1.ConditionTrue, "PodsReady")
	wasReady := meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionWorkloadReady).LastTransitionTime
	time.Sleep(1100 * time.Millisecond) // times of conditions are in seconds
	update("b", canaryWaits("ErrImagePull"))
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
	update("b", canaryWaits("ImagePullBackOff"))
	c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionFalse, "NotProven")
	update("b", canaryRuns(true)) // somebody has mended it
	maxUnavailable("10%")
	c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionTrue, "Proven")
	update("a", canaryRuns(false)) // containerd was started
	c.awaitCondition(t, mirror, v1alpha1.ConditionContainerdUsesMirror, metav1.ConditionUnknown, "Proving")
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Containerd = v1alpha1.ContainerdUnmanaged })
	eventually(t, func() error {
		c.get(t, mirror)
		if meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionContainerdUsesMirror) != nil {
			return fmt.Errorf("nothing is to be proven any more, and the condition is still there")
		}
		return nil
	})
}

// A mirror that has lost its registry, or its port, after the set-up says so.
func TestKeeperThatGivesWayIsACondition(t *testing.T) {
	mirror := node(v1alpha1.RoleMirror, "mirror")
	p := withCanary(mirror, "a", canaryRuns(true))
	s := &p.Status.ContainerStatuses[0]
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: control.ExitRegistryTaken, Message: "pyrsia: said the container\n"}}
	s.LastTerminationState = ended
	if reason, _ := setUpRefusal([]corev1.Pod{*p}); reason != "" {
		t.Errorf("it runs again, and the condition is %s", reason)
	}
	s.State, s.Ready = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}, false
	if reason, message := setUpRefusal([]corev1.Pod{*p}); reason != "RegistryTaken" || !strings.HasSuffix(message, "a: said the container") {
		t.Errorf("the condition is %s: %s", reason, message)
	}
}
