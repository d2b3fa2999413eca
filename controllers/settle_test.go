package controllers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// goldenObjects are the desired objects, as their golden files have them.
func goldenObjects(t *testing.T) map[string]runtime.ApplyConfiguration {
	t.Helper()
	files, err := filepath.Glob("pyrsianode/desired/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files, %v", err)
	}
	out := map[string]runtime.ApplyConfiguration{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		var of metav1.TypeMeta
		must(t, yaml.Unmarshal(data, &of))
		var desired runtime.ApplyConfiguration
		switch of.Kind {
		case "StatefulSet":
			desired = new(appsac.StatefulSetApplyConfiguration)
		case "DaemonSet":
			desired = new(appsac.DaemonSetApplyConfiguration)
		case "Service":
			desired = new(coreac.ServiceApplyConfiguration)
		case "Secret":
			continue // which the operator writes and never reads
		default:
			t.Fatalf("%s: a %s, which this test does not know", file, of.Kind)
		}
		if err := yaml.UnmarshalStrict(data, desired); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out[file] = desired
	}
	return out
}

// The API server's defaults in a desired object are not taken for a change:
// otherwise it would be applied for ever.
func TestDesiredObjectsSettle(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "images"}}
	c.create(t, ns)
	a := apply.New(c.WithWatch, c.WithWatch)
	want := goldenObjects(t) // the answers overwrite what is applied
	for name, desired := range goldenObjects(t) {
		if err := a.Apply(t.Context(), new(appsv1.DaemonSet), desired); err != nil { // creates it
			t.Errorf("%s: %v", name, err)
			continue
		}
		live, _, err := extract(t, c, desired)
		must(t, err)
		if err := a.Apply(t.Context(), live, desired); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		live, owned, err := extract(t, c, desired)
		must(t, err)
		for _, f := range live.GetManagedFields() {
			if f.Operation == metav1.ManagedFieldsOperationUpdate {
				t.Errorf("%s: fields of the creation would stay when they are wanted no more: %s", name, f.FieldsV1.GetRawString())
			}
		}
		if same, err := apply.EqualJSON(owned, want[name]); err != nil || !same {
			t.Errorf("%s does not settle, %v (-want +owned):\n%s", name, err, cmp.Diff(want[name], owned))
		}
		must(t, c.Delete(t.Context(), live, client.GracePeriodSeconds(0)))
	}
}

// extract reads what was applied, and what the operator owns of it.
func extract(t *testing.T, c *cluster, wanted runtime.ApplyConfiguration) (client.Object, any, error) {
	t.Helper()
	switch d := wanted.(type) {
	case *appsac.StatefulSetApplyConfiguration:
		live := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "images", Name: *d.Name}}
		c.get(t, live)
		owned, err := desired.ExtractStatefulSet(live, objects.FieldOwner)
		return live, owned, err
	case *appsac.DaemonSetApplyConfiguration:
		live := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "images", Name: *d.Name}}
		c.get(t, live)
		owned, err := appsac.ExtractDaemonSet(live, objects.FieldOwner)
		return live, owned, err
	case *coreac.ServiceApplyConfiguration:
		live := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "images", Name: *d.Name}}
		c.get(t, live)
		owned, err := coreac.ExtractService(live, objects.FieldOwner)
		return live, owned, err
	}
	return nil, nil, fmt.Errorf("%T", wanted)
}
