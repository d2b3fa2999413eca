package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// A mirror that says nothing stands on each machine with Linux, whatever its taints,
// and on nothing else. What its spec says counts instead.
func TestWhereMirrorsStand(t *testing.T) {
	plain := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	chosen := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	chosen.Spec.NodeSelector = map[string]string{"pool": "a"}
	chosen.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
	virtual := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	virtual.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "type", Operator: corev1.NodeSelectorOpIn, Values: []string{"virtual-kubelet"}}}}},
	}}}
	apart := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	apart.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
	publisher := fixtures.Node(v1alpha1.RolePublisher, "publisher")

	windows := fixtures.KubernetesNode("windows", corev1.LabelOSStable, "windows")
	fargate := fixtures.KubernetesNode("fargate", "eks.amazonaws.com/compute-type", "fargate")
	aks := fixtures.KubernetesNode("aks", "type", "virtual-kubelet")
	admiralty := fixtures.KubernetesNode("admiralty", "virtual-kubelet.io/provider", "admiralty")
	liqo := fixtures.KubernetesNode("liqo", "liqo.io/type", "virtual-node")
	arm := fixtures.KubernetesNode("arm", corev1.LabelArchStable, "arm64", "eks.amazonaws.com/compute-type", "ec2")
	gpu, control := fixtures.Tainted(fixtures.KubernetesNode("gpu", "pool", "a"), "gpu"), fixtures.Tainted(fixtures.KubernetesNode("control"), "node-role.kubernetes.io/control-plane")
	fresh := fixtures.Tainted(fixtures.Tainted(fixtures.KubernetesNode("fresh", "pool", "a"), TaintNotProven), corev1.TaintNodeNotReady)
	all := []*corev1.Node{windows, fargate, aks, admiralty, liqo, arm, gpu, control, fresh}
	for name, tc := range map[string]struct {
		n         *v1alpha1.PyrsiaNode
		everyNode bool
		want      []string
	}{
		"it says nothing":         {plain, true, []string{"arm", "gpu", "control", "fresh"}},
		"v0.1.0 made it":          {plain, false, []string{"fargate", "aks", "admiralty", "liqo", "arm", "fresh"}},
		"it chooses":              {chosen, true, []string{"gpu", "fresh"}},
		"it wants virtual nodes":  {virtual, true, []string{"aks"}},
		"it has another affinity": {apart, true, []string{"arm", "gpu", "control", "fresh"}},
		"a publisher":             {publisher, false, []string{"windows", "fargate", "aks", "admiralty", "liqo", "arm", "fresh"}},
	} {
		var got []string
		s := SchedulingOf(tc.n, tc.everyNode)
		for _, node := range all {
			if s.Chooses(node) && s.Untolerated(node) == nil {
				got = append(got, node.Name)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if plain.Spec.NodeSelector != nil || plain.Spec.Affinity != nil || apart.Spec.Affinity.NodeAffinity != nil {
		t.Error("the spec was changed")
	}
}
