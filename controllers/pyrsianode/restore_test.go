package pyrsianode

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// What has fallen out is certain only when no pod is on its way.
func TestFallenOut(t *testing.T) {
	const standardPath = desired.DefaultConfigPath
	managed, unmanaged := &v1alpha1.PyrsiaNode{}, &v1alpha1.PyrsiaNode{}
	for _, n := range []*v1alpha1.PyrsiaNode{managed, unmanaged} {
		n.Spec.Role = v1alpha1.RoleMirror
		n.Status.Containerd = []v1alpha1.ContainerdSetup{{Path: standardPath, Nodes: []string{"a", "b"}}}
	}
	unmanaged.Spec.Mirror = &v1alpha1.Mirror{Containerd: v1alpha1.ContainerdUnmanaged}
	on := func(nodes ...string) (pods []corev1.Pod) {
		for _, node := range nodes {
			pods = append(pods, corev1.Pod{Spec: corev1.PodSpec{NodeName: node}})
		}
		return pods
	}
	ending := on("b")
	ending[0].DeletionTimestamp = new(metav1.Now())
	waiting := []corev1.Pod{{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}},
		}}},
	}}}}}
	set := func(desired, updated, ready int32) appsv1.DaemonSetStatus {
		return appsv1.DaemonSetStatus{DesiredNumberScheduled: desired, UpdatedNumberScheduled: updated, NumberReady: ready}
	}
	for name, c := range map[string]struct {
		n    *v1alpha1.PyrsiaNode
		pods []corev1.Pod
		set  appsv1.DaemonSetStatus
		want *desired.Place
	}{
		"all is well":                     {managed, on("a", "b"), set(2, 2, 2), nil},
		"one has gone":                    {managed, on("a"), set(1, 1, 1), &desired.Place{Path: standardPath, Nodes: []string{"b"}, Abandoned: true}},
		"all have gone":                   {managed, nil, set(0, 0, 0), &desired.Place{Path: standardPath, Nodes: []string{"a", "b"}, Abandoned: true}},
		"one is replaced":                 {managed, on("a"), set(2, 1, 1), nil},
		"one ends":                        {managed, append(on("a"), ending...), set(1, 1, 1), nil},
		"one waits to be placed":          {managed, append(on("a"), waiting...), set(2, 2, 1), nil},
		"nobody knows where one will be":  {managed, append(on("a"), on("")...), set(2, 2, 1), nil},
		"unmanaged, being rolled out":     {unmanaged, on("a", "b"), set(2, 1, 2), nil},
		"unmanaged, rolled out":           {unmanaged, on("a", "b"), set(2, 2, 2), &desired.Place{Path: standardPath, Nodes: []string{"a", "b"}, Abandoned: false}},
		"unmanaged, an old pod ends":      {unmanaged, append(on("a", "b"), ending...), set(2, 2, 2), nil},
		"unmanaged, one is not ready":     {unmanaged, on("a", "b"), set(2, 2, 1), nil},
		"unmanaged, one has gone as well": {unmanaged, on("a"), set(1, 0, 1), &desired.Place{Path: standardPath, Nodes: []string{"b"}, Abandoned: true}},
	} {
		if diff := cmp.Diff(c.want, fallenOut(c.n, c.pods, c.set), cmp.AllowUnexported(desired.Place{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
