package pyrsianode

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// What is covered, and what keeps a mirror away.
func TestCoverageOf(t *testing.T) {
	n := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	n.Spec.NodeSelector = map[string]string{"pool": "a"}
	n.Spec.Tolerations = []corev1.Toleration{{Key: "other", Operator: corev1.TolerationOpExists}}
	var nodes []corev1.Node
	for _, one := range []*corev1.Node{
		fixtures.KubernetesNode("covered", "pool", "a"), fixtures.Tainted(fixtures.KubernetesNode("tainted", "pool", "a"), "gpu"), fixtures.KubernetesNode("full", "pool", "a"), fixtures.KubernetesNode("new", "pool", "a"),
		fixtures.KubernetesNode("other", "pool", "b"), fixtures.KubernetesNode("windows", "pool", "a", corev1.LabelOSStable, "windows"), fixtures.KubernetesNode("virtual", "pool", "a", "type", "kwok"),
	} {
		nodes = append(nodes, *one)
	}
	waits := corev1.Pod{Spec: corev1.PodSpec{Affinity: wantedOn("full")}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse}}}}
	got := coverageOf(n, true, nodes, []corev1.Pod{{Spec: corev1.PodSpec{NodeName: "covered"}}, waits})
	if got.total != 4 || len(got.without) != 3 || got.without["tainted"] != "taint gpu:NoSchedule" || got.without["full"] != "no room for its pod" || got.without["new"] != "" ||
		fmt.Sprint(got.outside) != "[other]" {
		t.Errorf("got %+v", got)
	}
	old := fixtures.Node(v1alpha1.RoleMirror, "mirror") // v0.1.0 made it
	if got := coverageOf(old, false, nodes, []corev1.Pod{{Spec: corev1.PodSpec{NodeName: "covered"}}}); got.total != 5 || got.without["tainted"] != "taint gpu:NoSchedule" || len(got.without) != 4 {
		t.Errorf("a mirror of v0.1.0: %+v", got)
	}

	// It is Unknown while it may take its time, then False until all are covered.
	now := time.Now()
	young := coverage{total: 2, without: map[string]string{"new": ""}}
	steps := []struct {
		found coverage
		now   time.Time
		want  metav1.ConditionStatus
	}{
		{young, now, metav1.ConditionUnknown},
		{young, now.Add(coverWait / 2), metav1.ConditionUnknown},
		{young, now.Add(coverWait + time.Minute), metav1.ConditionFalse},
		{young, now.Add(coverWait + 2*time.Minute), metav1.ConditionFalse},
		{coverage{total: 2}, now, metav1.ConditionTrue},
		{got, now, metav1.ConditionFalse},
	}
	for i, step := range steps {
		judgeCoverage(n, step.found, step.now)
		if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNodesCovered); c.Status != step.want {
			t.Errorf("step %d: %+v, want %s", i, c, step.want)
		}
	}
	message := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNodesCovered).Message
	for _, part := range []string{"3 of 4 Kubernetes nodes", "full (no room for its pod), new, tainted (taint gpu:NoSchedule)", "kubectl -n images patch pyrsianode mirror", "set spec.priorityClassName"} {
		if !strings.Contains(message, part) {
			t.Errorf("the message lacks %q: %s", part, message)
		}
	}

	many := coverage{without: map[string]string{}, tainted: true}
	for i := range 5000 {
		many.without[fmt.Sprintf("node-%04d", i)] = "taint gpu:NoSchedule"
	}
	judgeCoverage(n, many, now)
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNodesCovered); strings.Count(c.Message, "node-") != maxNodesNamed || !strings.Contains(c.Message, "and 4990 more") {
		t.Errorf("the message is %q", c.Message)
	}
}

// wantedOn is the affinity by which a DaemonSet wants its pod on a Kubernetes node.
func wantedOn(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}},
	}}}
}
