package pyrsianode

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// Trouble of the pods that hold the mirror's port is named as that of its own is.
func TestTroubleOfFrontends(t *testing.T) {
	pods := func(n int, status corev1.PodStatus) (out []corev1.Pod) {
		for i := range n {
			out = append(out, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i)}, Status: status})
		}
		return out
	}
	ended := func(message string) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: "frontend", RestartCount: 5, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: message}},
		}}}
	}
	unplaced := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse}}}
	for name, tc := range map[string]struct {
		class  string
		fronts []corev1.Pod
		want   []string
	}{
		"its port is taken":    {"", pods(2, ended("level=INFO\npyrsia: listening for container clients: set spec.mirror.port to another one\n")), []string{"container frontend of pod pod-0 keeps ending: listening for container clients: set spec.mirror.port to another one: see"}},
		"it was preempted":     {"", pods(2, unplaced), []string{"pod pod-0 cannot be placed", "set spec.priorityClassName, such as system-node-critical"}},
		"although it has some": {"system-node-critical", pods(2, unplaced), []string{"pod pod-0 cannot be placed: see 'kubectl describe pod pod-0'"}},
		"it was evicted":       {"", pods(2, corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Preempting"}), []string{"pod pod-0 was ended (Preempting)", "set spec.priorityClassName"}},
		"it is refused":        {"", nil, []string{"the cluster makes 0 of 2 pods of mirror-frontend", "Pod Security level", "kubectl -n images describe daemonset mirror-frontend"}},
	} {
		n := fixtures.Node(v1alpha1.RoleMirror, "mirror")
		n.Spec.PriorityClassName = tc.class
		n.Status.Nodes = &v1alpha1.NodeCounts{Desired: 2}
		judgeWorkload(n, pods(2, corev1.PodStatus{}), tc.fronts)
		message := n.Status.Conditions[0].Message
		for _, part := range tc.want {
			if !strings.Contains(message, part) {
				t.Errorf("%s: the message lacks %q: %s", name, part, message)
			}
		}
		if tc.class != "" && strings.Contains(message, "priorityClassName") {
			t.Errorf("%s: %s", name, message)
		}
	}
}
