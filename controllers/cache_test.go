package controllers_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// cached is what the operator's cache keeps of an object.
func cached(t *testing.T, obj client.Object) client.Object {
	t.Helper()
	options := controllers.CacheOptions(pyrsianode.DefaultHostRules("pyrsia-system"))
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
	must(t, err)
	return kept.(client.Object)
}

// Large objects of other namespaces, with the operator's label or of its kinds,
// do not fill its memory.
func TestCacheKeepsLittleOfOthers(t *testing.T) {
	large := strings.Repeat("x", 200<<10)
	owner := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	fill := func(o client.Object, owned bool) client.Object {
		o.SetNamespace("tenant")
		o.SetName("mirror")
		o.SetUID("1")
		o.SetResourceVersion("7")
		o.SetLabels(map[string]string{objects.LabelManagedBy: objects.FieldOwner, objects.LabelInstance: "mirror"})
		o.SetAnnotations(map[string]string{"example.com/large": large})
		o.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: objects.FieldOwner, FieldsV1: metav1.NewFieldsV1(`{"f:x":"` + large + `"}`)}})
		if owned {
			o.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(owner, v1alpha1.GroupVersion.WithKind("PyrsiaNode"))})
		}
		return o
	}
	crowd := fill(new(v1alpha1.Artifact), false)
	for i := range 10_000 {
		crowd.SetOwnerReferences(append(crowd.GetOwnerReferences(), metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "OfficialImageSet", Name: "x", UID: types.UID(fmt.Sprint(i))}))
	}
	held := fill(new(v1alpha1.Artifact), false)
	held.SetFinalizers([]string{"example.com/" + large, "example.com/small"})
	heir := fill(fixtures.Node(v1alpha1.RoleMirror, "mirror"), false)
	heir.SetOwnerReferences(crowd.GetOwnerReferences())
	placed := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	placed.Spec.Affinity = placement(100_000)
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Args: []string{large}}}}}
	affinity := &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: large}}}}
	for name, obj := range map[string]client.Object{
		"a DaemonSet":       fill(&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template}}, false),
		"an owned one":      fill(&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template}}, true), // who owns the owner may say so
		"a StatefulSet":     fill(&appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: template}}, false),
		"a Service":         fill(&corev1.Service{Spec: corev1.ServiceSpec{ExternalName: large}}, false),
		"a pod":             fill(&corev1.Pod{Spec: corev1.PodSpec{Affinity: affinity}, Status: corev1.PodStatus{Message: large}}, true),
		"a PyrsiaNode":      fill(fixtures.Node(v1alpha1.RoleMirror, "mirror"), false),
		"an Artifact":       fill(new(v1alpha1.Artifact), false),
		"one of many":       crowd, // owners
		"one that is held":  held,
		"an owned node":     heir,
		"a placed node":     fill(placed, false),
		"an image set":      fill(new(v1alpha1.OfficialImageSet), false),
		"a namespace":       fill(&metav1.PartialObjectMetadata{}, false),
		"a pod of the past": fill(&corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: large}}}}, false),
	} {
		kept := cached(t, obj)
		data, err := json.Marshal(kept)
		must(t, err)
		if len(data) > 4<<10 {
			t.Errorf("%s is kept in %d bytes", name, len(data))
		}
		if kept.GetUID() != "1" || kept.GetName() != "mirror" || kept.GetNamespace() != "tenant" || kept.GetResourceVersion() != "7" {
			t.Errorf("%s is not the same any more: %s", name, data)
		}
	}
}

// What the operator makes for a PyrsiaNode is kept whole, and nothing else that
// names it as its owner: that may be thousands of objects.
func TestCacheKeepsWhatTheOperatorMakes(t *testing.T) {
	owner := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	for _, tc := range []struct {
		obj     client.Object
		name    string
		leaving bool
		want    bool
	}{
		{new(appsv1.DaemonSet), "mirror", false, true},
		{new(appsv1.DaemonSet), desired.FrontendName(owner), false, true},
		{new(appsv1.DaemonSet), desired.CleanupName(owner), false, true},
		{new(appsv1.DaemonSet), "mirror", true, false}, // somebody's finalizer keeps it
		{new(appsv1.DaemonSet), "other", false, false},
		{new(appsv1.StatefulSet), "mirror", false, true},
		{new(appsv1.StatefulSet), desired.FrontendName(owner), false, false},
		{new(corev1.Service), "mirror", false, true},
		{new(corev1.Service), desired.ExposureName(owner), false, true},
		{new(corev1.Service), "mirror-1", false, false},
	} {
		tc.obj.SetName(tc.name)
		tc.obj.SetAnnotations(map[string]string{"example.com/large": strings.Repeat("x", 20<<10)})
		tc.obj.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(owner, v1alpha1.GroupVersion.WithKind("PyrsiaNode"))})
		if tc.leaving {
			tc.obj.SetDeletionTimestamp(new(metav1.Now()))
		}
		kept := cached(t, tc.obj)
		if diff := cmp.Diff(tc.obj, kept); (diff == "") != tc.want {
			t.Errorf("the %T %s (deleted: %v) is kept whole: %v", tc.obj, tc.name, tc.leaving, diff == "")
		}
		if !metav1.IsControlledBy(kept, owner) || kept.GetName() != tc.name || (kept.GetDeletionTimestamp() != nil) != tc.leaving {
			t.Errorf("the %T %s is not the same any more: %+v", tc.obj, tc.name, kept)
		}
	}
}

// placement is an affinity of many terms, each of which says nothing.
func placement(terms int) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: make([]corev1.NodeSelectorTerm, terms)}}}
}

// A PyrsiaNode whose rules of placement are too large for the cache says so, and
// goes on when they are smaller.
// Thousands of Artifacts have the same reasons and messages, and cost the memory of one.
func TestArtifactsShareStrings(t *testing.T) {
	of := func(name string) []string {
		art := &v1alpha1.Artifact{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
		art.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "OfficialImageSet", Name: "official", UID: "7"}}
		art.Spec.PublisherRef.Name = "publisher"
		art.Status.Platforms = []string{"linux/amd64"}
		status.SetDone(art, v1alpha1.ConditionReady, "Succeeded", "All steps are done")
		data, err := json.Marshal(art)
		must(t, err)
		decoded := new(v1alpha1.Artifact)
		must(t, json.Unmarshal(data, decoded))
		kept := cached(t, decoded).(*v1alpha1.Artifact)
		ref, c := kept.OwnerReferences[0], kept.Status.Conditions[0]
		return []string{kept.Namespace, ref.Name, ref.Kind, string(ref.UID), ref.APIVersion, kept.Spec.PublisherRef.Name, kept.Status.Platforms[0], c.Type, string(c.Status), c.Reason, c.Message}
	}
	a, b := of("a"), of("b")
	for i := range a {
		if a[i] != b[i] || unsafe.StringData(a[i]) != unsafe.StringData(b[i]) {
			t.Errorf("%q and %q are two copies", a[i], b[i])
		}
	}
}

func TestPlacementThatIsTooLarge(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	n := publisherNode(c.namespace(t), "http://127.0.0.1:1")
	n.Spec.Affinity = placement(20_000)
	c.create(t, n)
	got := c.awaitCondition(t, n, v1alpha1.ConditionKeysReady, metav1.ConditionFalse, "SpecTooLarge")
	if !strings.Contains(got.Message, "spec.affinity") || len(n.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) != 20_000 {
		t.Errorf("it is changed, or told %q", got.Message)
	}
	c.awaitCondition(t, n, v1alpha1.ConditionStalled, metav1.ConditionTrue, "SpecTooLarge")
	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.Affinity = placement(1) })
	c.awaitCondition(t, n, v1alpha1.ConditionKeysReady, metav1.ConditionTrue, "")
	c.awaitTemplate(t, n)
}

// A workload that is too large for the cache is put right like any other, and then
// left alone.
func TestLargeWorkloadsSettle(t *testing.T) {
	c, ns := ownNamespace(t)
	n := publisherNode(ns, "http://127.0.0.1:1")
	n.Spec.PodAnnotations = map[string]string{"example.com/large": strings.Repeat("x", 100<<10)}
	c.create(t, n)
	c.awaitTemplate(t, n)
	c.runPod(t, n, "")
	c.awaitCondition(t, n, v1alpha1.ConditionWorkloadReady, metav1.ConditionTrue, "")
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: n.Name}}
	writes := c.writes.during(ns, func() { time.Sleep(12 * time.Second) })
	if again := slices.DeleteFunc(writes, func(w string) bool { return !strings.Contains(w, "/statefulsets/") }); len(again) > 0 {
		t.Errorf("it is written again and again: %q", again)
	}
	c.until(t, set, func() error { // somebody changes it
		set.Spec.Template.Spec.Containers[0].Image = "example.com/other"
		return c.Update(t.Context(), set)
	})
	c.until(t, set, func() error {
		return errorIf(set.Spec.Template.Spec.Containers[0].Image == "example.com/other", "it is not put right")
	})
	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations["example.com/small"] = "x" })
	c.until(t, set, func() error {
		return errorIf(set.Spec.Template.Annotations["example.com/small"] != "x", "its change is not applied")
	})
}
