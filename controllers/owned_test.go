package controllers_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// wrecks are what somebody may do to each kind of object that the operator owns.
var wrecks = map[string]func(*unstructured.Unstructured){
	"StatefulSet": wreckPods,
	"DaemonSet":   wreckPods,
	"Service": func(o *unstructured.Unstructured) {
		o.Object["spec"].(map[string]any)["selector"] = map[string]any{"app": "other"}
		o.Object["spec"].(map[string]any)["publishNotReadyAddresses"] = false
	},
	"Secret": func(o *unstructured.Unstructured) { o.Object["data"] = map[string]any{desired.NodeKeyFile: "eA=="} },
	// Of an Artifact the API server keeps all that matters; it can be deleted.
	"Artifact": func(o *unstructured.Unstructured) {},
}

func wreckPods(o *unstructured.Unstructured) {
	template := o.Object["spec"].(map[string]any)["template"].(map[string]any)
	spec := template["spec"].(map[string]any)
	spec["automountServiceAccountToken"] = true
	container := spec["containers"].([]any)[0].(map[string]any)
	container["image"], container["args"] = "example.com/other", []any{"--evil"}
	delete(container, "securityContext")
}

// What others change of the operator's objects, and what they delete, is put
// right, of every kind that it owns; what they add to it stays.
func TestOwnedObjectsArePutRight(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	up.push(t, "library/alpine:3.20")
	publisher, mirror := publisherNode(ns, up.URL), mirrorNode(ns)
	publisher.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureNodePort, Port: 30987}}
	set := fixtures.ImageSet(ns, 0, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	set.Spec.Interval = nil
	c.create(t, publisher, mirror, set)
	c.awaitArgument(t, publisher, "--announce")
	c.runPod(t, publisher, "")
	c.runPod(t, mirror, "")
	c.awaitCurrent(t, set)

	all := c.owned(t, ns)
	seen := map[string]bool{}
	for _, o := range all {
		seen[o.GetKind()] = true
		if wrecks[o.GetKind()] == nil {
			t.Errorf("the operator owns a %s %s, of which this test does not know how it may be wrecked", o.GetKind(), o.GetName())
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(wrecks)), slices.Sorted(maps.Keys(seen))); diff != "" {
		t.Fatalf("kinds (-wrecked +owned):\n%s", diff)
	}
	for _, o := range all {
		if o.GetKind() == "Secret" {
			continue
		}
		t.Run(o.GetKind()+" "+o.GetName(), func(t *testing.T) {
			if o.GetKind() != "Artifact" {
				c.wreck(t, o)
				c.awaitRestored(t, o, true)
			}
			must(t, c.Delete(t.Context(), o.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground)))
			c.awaitRestored(t, o, false)
		})
	}
	// The operator may not read Secrets: it writes them again when a node cannot
	// be asked or is not ready, at most every KeysEvery.
	for _, o := range all {
		if o.GetKind() == "Secret" {
			c.wreck(t, o)
		}
	}
	for _, n := range []*v1alpha1.PyrsiaNode{publisher, mirror} {
		c.setWorkloadStatus(t, n, 1, 0)
		c.until(t, n, func() error {
			return errorIf(status.IsTrue(n, v1alpha1.ConditionWorkloadReady), "the workload is ready")
		})
	}
	for _, o := range all {
		if o.GetKind() == "Secret" {
			c.awaitRestored(t, o, true)
		}
	}
}

// wreck changes an object as a user with every right might.
func (c *cluster) wreck(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	eventually(t, func() error {
		live := o.DeepCopy()
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), live); err != nil {
			return err
		}
		wrecks[o.GetKind()](live)
		live.SetLabels(map[string]string{"example.com/team": "mine"})
		live.SetAnnotations(map[string]string{"example.com/note": "mine"})
		return c.Update(t.Context(), live, client.FieldOwner("somebody"))
	})
}

// awaitRestored waits until an object is as it was. One that was only changed
// keeps what somebody added.
func (c *cluster) awaitRestored(t *testing.T, was *unstructured.Unstructured, changed bool) {
	t.Helper()
	eventually(t, func() error {
		now := new(unstructured.Unstructured)
		now.SetGroupVersionKind(was.GroupVersionKind())
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(was), now); err != nil {
			return err
		}
		if !changed && now.GetUID() == was.GetUID() {
			return errors.New("it is still the one that was deleted")
		}
		for key, value := range was.GetLabels() {
			if now.GetLabels()[key] != value {
				return fmt.Errorf("label %s is %q", key, now.GetLabels()[key])
			}
		}
		if changed && (now.GetAnnotations()["example.com/note"] != "mine" || now.GetLabels()["example.com/team"] != "mine") {
			t.Fatal("what somebody added was removed")
		}
		for _, part := range []string{"spec", "data"} {
			if diff := cmp.Diff(stable(was, part), stable(now, part)); diff != "" {
				return fmt.Errorf("%s (-before +now):\n%s", part, diff)
			}
		}
		return nil
	})
}

// stable is a part of an object, without what the API server chooses anew.
func stable(o *unstructured.Unstructured, part string) map[string]any {
	out, _, _ := unstructured.NestedMap(o.DeepCopy().Object, part)
	for _, name := range []string{"clusterIP", "clusterIPs", "priority"} {
		delete(out, name)
	}
	if ports, ok := out["ports"].([]any); ok {
		for _, p := range ports {
			delete(p.(map[string]any), "nodePort")
		}
	}
	return out
}

// owned are all objects in a namespace that one of this API's objects owns, of
// whatever kind there is.
func (c *cluster) owned(t *testing.T, ns string) (out []*unstructured.Unstructured) {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(c.env.Config)
	must(t, err)
	lists, err := d.ServerPreferredNamespacedResources()
	must(t, err)
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		must(t, err)
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			list := new(unstructured.UnstructuredList)
			list.SetGroupVersionKind(gv.WithKind(r.Kind))
			if err := c.List(t.Context(), list, client.InNamespace(ns)); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
				t.Fatalf("listing %s: %v", r.Name, err)
			}
			for i := range list.Items {
				o := &list.Items[i]
				if slices.ContainsFunc(o.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
					return strings.HasPrefix(ref.APIVersion, v1alpha1.GroupVersion.Group+"/")
				}) {
					out = append(out, o)
				}
			}
		}
	}
	return out
}
