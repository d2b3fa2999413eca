package controllers

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// cached is what the operator's cache keeps of an object.
func cached(t *testing.T, obj client.Object) client.Object {
	t.Helper()
	options := CacheOptions(DefaultHostRules("pyrsia-system"))
	transform := options.DefaultTransform
	for of, by := range options.ByObject {
		if reflect.TypeOf(of) == reflect.TypeOf(obj) {
			transform = by.Transform
		}
	}
	if transform == nil {
		return obj
	}
	kept, err := transform(obj.DeepCopyObject())
	if err != nil {
		t.Fatal(err)
	}
	return kept.(client.Object)
}

// Whoever may make objects in any namespace, with the operator's label or of its
// kinds, does not fill its memory with large ones.
func TestCacheKeepsLittleOfOthers(t *testing.T) {
	large := strings.Repeat("x", 200<<10)
	owner := node(v1alpha1.RoleMirror, "mirror")
	fill := func(o client.Object, owned bool) client.Object {
		o.SetNamespace("tenant")
		o.SetName("mirror")
		o.SetUID("1")
		o.SetResourceVersion("7")
		o.SetLabels(map[string]string{labelManagedBy: fieldOwner, labelInstance: "mirror"})
		o.SetAnnotations(map[string]string{"example.com/large": large})
		o.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: fieldOwner, FieldsV1: metav1.NewFieldsV1(`{"f:x":"` + large + `"}`)}})
		if owned {
			o.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(owner, v1alpha1.GroupVersion.WithKind("PyrsiaNode"))})
		}
		return o
	}
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Args: []string{large}}}}}
	affinity := &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: large}}}}
	for name, obj := range map[string]client.Object{
		"a DaemonSet":       fill(&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template}}, false),
		"an owned one":      fill(&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template}}, true), // who owns the owner may say so
		"a StatefulSet":     fill(&appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: template}}, false),
		"a Service":         fill(&corev1.Service{Spec: corev1.ServiceSpec{ExternalName: large}}, false),
		"a pod":             fill(&corev1.Pod{Spec: corev1.PodSpec{Affinity: affinity}, Status: corev1.PodStatus{Message: large}}, true),
		"a PyrsiaNode":      fill(node(v1alpha1.RoleMirror, "mirror"), false),
		"an Artifact":       fill(new(v1alpha1.Artifact), false),
		"an image set":      fill(new(v1alpha1.OfficialImageSet), false),
		"a namespace":       fill(&metav1.PartialObjectMetadata{}, false),
		"a pod of the past": fill(&corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: large}}}}, false),
	} {
		kept := cached(t, obj)
		data, err := json.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 4<<10 {
			t.Errorf("%s is kept in %d bytes", name, len(data))
		}
		if kept.GetUID() != "1" || kept.GetName() != "mirror" || kept.GetNamespace() != "tenant" || kept.GetResourceVersion() != "7" {
			t.Errorf("%s is not the same any more: %s", name, data)
		}
	}
	own := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "mirror", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, v1alpha1.GroupVersion.WithKind("PyrsiaNode"))}},
		Spec: appsv1.DaemonSetSpec{MinReadySeconds: 3}}
	if diff := cmp.Diff(client.Object(own), cached(t, own)); diff != "" {
		t.Errorf("what the operator has made is not kept whole: %s", diff)
	}
}

// A workload that is too large for the cache is put right like any other, and then
// left alone.
func TestLargeWorkloadsSettle(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns := c.namespace(t)
	n := publisherNode(ns, "http://127.0.0.1:1")
	n.Spec.PodAnnotations = map[string]string{"example.com/large": strings.Repeat("x", 100<<10)}
	c.create(t, n)
	c.awaitTemplate(t, n)
	c.runPod(t, n, "")
	c.awaitCondition(t, n, v1alpha1.ConditionWorkloadReady, metav1.ConditionTrue, "")
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: n.Name}}
	if writes := c.writes.during(ns, func() { time.Sleep(12 * time.Second) }); len(writes) > 1 { // its ledger may grow
		t.Errorf("it is written again and again: %q", writes)
	}
	eventually(t, func() error { // somebody changes it
		c.get(t, set)
		set.Spec.Template.Spec.Containers[0].Image = "example.com/other"
		return c.Update(t.Context(), set)
	})
	eventually(t, func() error {
		if c.get(t, set); set.Spec.Template.Spec.Containers[0].Image == "example.com/other" {
			return errors.New("it is not put right")
		}
		return nil
	})
	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations["example.com/small"] = "x" })
	eventually(t, func() error {
		if c.get(t, set); set.Spec.Template.Annotations["example.com/small"] != "x" {
			return fmt.Errorf("its change is not applied")
		}
		return nil
	})
}
