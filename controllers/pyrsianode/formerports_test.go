package pyrsianode

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Which pods count while a mirror's pods are replaced.
func TestRolledOut(t *testing.T) {
	pod := func(node, revision string, minute int, ending bool) corev1.Pod {
		p := corev1.Pod{Spec: corev1.PodSpec{NodeName: node}}
		p.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}
		p.CreationTimestamp = metav1.NewTime(time.Unix(int64(60*minute), 0))
		if ending {
			p.DeletionTimestamp = &p.CreationTimestamp
		}
		return p
	}
	status := func(desired, updated, ready int32) appsv1.DaemonSetStatus {
		return appsv1.DaemonSetStatus{DesiredNumberScheduled: desired, UpdatedNumberScheduled: updated, NumberReady: ready}
	}
	dead := map[string]bool{"dead": true}
	for name, tt := range map[string]struct {
		set  appsv1.DaemonSetStatus
		pods []corev1.Pod
		dead map[string]bool
		want bool
	}{
		"all":                       {status(2, 2, 2), []corev1.Pod{pod("a", "2", 3, false), pod("b", "2", 3, false)}, nil, true},
		"one is to be replaced":     {status(2, 1, 2), []corev1.Pod{pod("a", "2", 3, false), pod("b", "1", 1, false)}, nil, false},
		"one is not ready":          {status(2, 2, 1), []corev1.Pod{pod("a", "2", 3, false), pod("b", "2", 3, false)}, nil, false},
		"one ends":                  {status(2, 2, 2), []corev1.Pod{pod("a", "2", 3, false), pod("b", "2", 3, false), pod("b", "1", 1, true)}, nil, false},
		"dead, old":                 {status(2, 1, 1), []corev1.Pod{pod("a", "2", 3, false), pod("dead", "1", 1, false)}, dead, true},
		"dead, ends":                {status(2, 1, 1), []corev1.Pod{pod("a", "2", 3, false), pod("dead", "1", 1, true)}, dead, true},
		"dead, new":                 {status(2, 2, 1), []corev1.Pod{pod("a", "2", 3, false), pod("dead", "2", 4, false)}, dead, true},
		"not known to be dead":      {status(2, 1, 1), []corev1.Pod{pod("a", "2", 3, false), pod("dead", "1", 1, false)}, nil, false},
		"dead, new, and one old":    {status(2, 1, 1), []corev1.Pod{pod("a", "1", 1, false), pod("dead", "2", 3, false)}, dead, false},
		"dead, and one not ready":   {status(3, 2, 1), []corev1.Pod{pod("a", "2", 3, false), pod("b", "2", 3, false), pod("dead", "1", 1, false)}, dead, false},
		"dead, and one has no pod":  {status(3, 1, 1), []corev1.Pod{pod("a", "2", 3, false), pod("dead", "1", 1, false)}, dead, false},
		"dead, and two on one node": {status(2, 1, 1), []corev1.Pod{pod("a", "2", 3, false), pod("a", "1", 1, false), pod("dead", "1", 1, false)}, dead, false},
	} {
		if got := rolledOut(tt.set, tt.pods, tt.dead); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
	if on := heldUpBy(dead, []corev1.Pod{pod("b", "1", 1, false), pod("dead", "1", 1, false)}, []corev1.Pod{pod("a", "1", 1, true)}); fmt.Sprint(on) != "[a b]" {
		t.Errorf("held up by %v", on)
	}
}
