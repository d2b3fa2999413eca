package pyrsianode

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/canary"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

func TestProofOfOnePod(t *testing.T) {
	mirror := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	old := fixtures.PodOn(mirror, "mirror", "a")
	old.Spec.Containers = []corev1.Container{{Name: "hold", Image: "pyrsia:v0.1.0"}}
	for name, tc := range map[string]struct {
		pod         *corev1.Pod
		want        proofState
		lacks, hold bool // the proof alone; up a roll-out
	}{
		"proven":                   {fixtures.WithCanary(mirror, "a", fixtures.CanaryRuns(true)), proofGiven, false, false},
		"to be asked again":        {fixtures.WithCanary(mirror, "a", fixtures.CanaryRuns(false)), proofAwaited, true, false},
		"new":                      {fixtures.WithCanary(mirror, "a", fixtures.CanaryWaits("ContainerCreating")), proofAwaited, true, false},
		"the pull has failed":      {fixtures.WithCanary(mirror, "a", fixtures.CanaryWaits("ErrImagePull")), proofFailed, true, true},
		"and is to be tried again": {fixtures.WithCanary(mirror, "a", fixtures.CanaryWaits("ImagePullBackOff")), proofFailed, true, true},
		"started too often":        {fixtures.WithCanary(mirror, "a", fixtures.CanaryWaits("CrashLoopBackOff")), proofAwaited, true, true},
		"of v0.1.0":                {old, proofAwaited, false, false},
	} {
		if got := proofOf(mirror, *tc.pod); got != tc.want || objects.LacksProofAlone(*tc.pod) != tc.lacks || objects.HoldsUp(*tc.pod) != tc.hold {
			t.Errorf("%s: the proof is %d, want %d; lacks it alone: %t; holds up a roll-out: %t", name, got, tc.want, objects.LacksProofAlone(*tc.pod), objects.HoldsUp(*tc.pod))
		}
	}
	other := fixtures.WithCanary(mirror, "a", fixtures.CanaryRuns(true))
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
		p := fixtures.WithCanary(mirror, "a", fixtures.CanaryWaits("ErrImagePull"))
		spoil(&p.Status)
		if objects.LacksProofAlone(*p) || objects.HoldsUp(*p) {
			t.Errorf("%s is not there either, and the pod counts as ready", what)
		}
	}
}

// The condition names where containerd goes elsewhere, and what mends it, before
// it speaks of what is only awaited.
func TestContainerdUsesMirror(t *testing.T) {
	mirror := fixtures.Node(v1alpha1.RoleMirror, "mirror")
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
	proven := func(name string) *corev1.Pod { return fixtures.WithCanary(mirror, name, fixtures.CanaryRuns(true)) }
	failed := func(name string) *corev1.Pod {
		return fixtures.WithCanary(mirror, name, fixtures.CanaryWaits("ErrImagePull"))
	}
	awaited := func(name string) *corev1.Pod {
		return fixtures.WithCanary(mirror, name, fixtures.CanaryWaits("ContainerCreating"))
	}
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

// A mirror that has lost its registry, or its port, after the set-up says so.
func TestKeeperThatGivesWayIsACondition(t *testing.T) {
	mirror := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	p := fixtures.WithCanary(mirror, "a", fixtures.CanaryRuns(true))
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
