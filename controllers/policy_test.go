package controllers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// rendered are the objects of the chart with values.
func rendered(t *testing.T, args ...string) (out []*unstructured.Unstructured) {
	t.Helper()
	args = append([]string{"tool", "-modfile=hack/tools.mod", "helm", "template", "pyrsia-operator", "charts/pyrsia-operator", "--namespace", "pyrsia-system"}, args...)
	cmd := exec.Command("go", args...)
	cmd.Dir = ".."
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("rendering the chart: %v", err)
	}
	return documents(t, data)
}

func documents(t *testing.T, data []byte) (out []*unstructured.Unstructured) {
	t.Helper()
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		obj := new(unstructured.Unstructured)
		must(t, yaml.Unmarshal([]byte(doc), obj))
		out = append(out, obj)
	}
	return out
}

// policies are the two on PyrsiaNodes and the namespaces that have some, with their
// bindings: those of the chart with values, of config/default without any.
func policies(t *testing.T, args ...string) (out []*unstructured.Unstructured) {
	t.Helper()
	var all []*unstructured.Unstructured
	if len(args) > 0 {
		all = rendered(t, args...)
	} else {
		data, err := os.ReadFile("../config/default/install.yaml")
		must(t, err)
		all = documents(t, data)
	}
	for _, obj := range all {
		name := obj.GetName()
		if strings.HasPrefix(obj.GetKind(), "ValidatingAdmissionPolicy") && (name == "pyrsia-operator" || name == "pyrsia-operator-namespaces") {
			out = append(out, obj)
		}
	}
	if len(out) != 4 {
		t.Fatalf("there are %d policies and bindings, want 2 of each", len(out))
	}
	return out
}

// usePolicies makes the policies those of the chart with values.
func (c *cluster) usePolicies(t *testing.T, args ...string) {
	t.Helper()
	for _, obj := range policies(t, args...) {
		must(t, c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("helm"), client.ForceOwnership))
	}
}

// removePolicies does so, and waits until the API server has forgotten them.
func (c *cluster) removePolicies(t *testing.T, kept, empty string) {
	t.Helper()
	for _, obj := range policies(t) {
		c.delete(t, obj)
	}
	c.policySays(t, withHostPath(empty, "/etc"), "")
	c.deletionSays(t, kept, "")
}

// deletionSays deletes a namespace, dry: "" is acceptance, else a part of the refusal.
func (c *cluster) deletionSays(t *testing.T, ns, want string) {
	t.Helper()
	eventually(t, func() error {
		return says(c.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.DryRunAll), want)
	})
}

// setUp makes a mirror that has set containerd up.
func (c *cluster) setUp(t *testing.T, ns string) *v1alpha1.PyrsiaNode {
	t.Helper()
	n := mirrorNode(ns)
	n.Finalizers = []string{"pyrsia.io/containerd"}
	eventually(t, func() error { return c.Create(t.Context(), n) }) // its kind may have come a moment ago
	return n
}

// The lists are the policy's own, as people edit them who do without Helm; empty
// ones allow nothing.
func TestPolicyLists(t *testing.T) {
	t.Parallel()
	c := withPolicy(t)
	ns := c.namespace(t)
	set := func(name, expression string) {
		t.Helper()
		policy := named("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "pyrsia-operator")
		c.get(t, policy)
		variables, _, _ := unstructured.NestedSlice(policy.Object, "spec", "variables")
		found := false
		for _, v := range variables {
			if v := v.(map[string]any); v["name"] == name {
				v["expression"], found = expression, true
			}
		}
		if !found {
			t.Fatalf("there is no variable %s in %v", name, variables)
		}
		must(t, unstructured.SetNestedSlice(policy.Object, variables, "spec", "variables"))
		must(t, c.Update(t.Context(), policy))
	}
	at := func(port int32) *v1alpha1.PyrsiaNode {
		n := mirrorNode(ns)
		n.Spec.Mirror.Port = port
		return n
	}
	c.policySays(t, mirrorNode(ns), "")
	c.policySays(t, withHostPath(ns, "/etc"), "must be a folder directly below")
	t.Run("no root", func(t *testing.T) {
		set("hostPathRoots", `[]`)
		c.policySays(t, mirrorNode(ns), "must be a folder directly below")
		c.policySays(t, withHostPath(ns, "/etc"), "must be a folder directly below")
		for _, root := range []string{"", "/"} { // which would be all folders
			set("hostPathRoots", fmt.Sprintf(`["/mnt/x%s", %q]`, root, root))
			c.policySays(t, withHostPath(ns, "/etc"), "must be a folder directly below /mnt/x"+root+" or "+root+":")
		}
		set("hostPathRoots", `["/var/lib/pyrsia", "/mnt/fast"]`)
		c.policySays(t, withHostPath(ns, "/mnt/fast/x"), "")
	})
	t.Run("ports", func(t *testing.T) {
		for _, nothing := range []string{`[]`, `[""]`, `["x"]`, `["5001-"]`} {
			set("mirrorPorts", `["1-2"]`) // so that the next one is waited for
			c.policySays(t, at(5001), "must be one of 1-2:")
			set("mirrorPorts", nothing)
			eventually(t, func() error {
				err := c.Create(t.Context(), at(5001), client.DryRunAll)
				return errorIf(err == nil || strings.Contains(err.Error(), "1-2"), "ports %s: %v", nothing, err)
			})
		}
		set("mirrorPorts", `["5001", "6000-6010"]`)
		c.policySays(t, at(5001), "")
		c.policySays(t, at(6010), "")
		c.policySays(t, at(6011), "must be one of 5001, 6000-6010:")
		set("mirrorPorts", `["1024-65535"]`)
	})
	t.Run("set-up", func(t *testing.T) {
		set("containerdConfigPaths", `[]`)
		c.policySays(t, mirrorNode(ns), "spec.mirror.containerdConfigPath /etc/containerd/certs.d must be one of :")
		set("containerdConfigPaths", `["/etc/containerd/certs.d"]`)
		c.policySays(t, mirrorNode(ns), "")
	})
	t.Run("named namespaces", func(t *testing.T) { // the label counts no more
		set("namespaces", `["images", "others"]`)
		c.policySays(t, mirrorNode(ns), "adding it to the value namespaces of the operator's chart")
		c.policySays(t, mirrorNode("pyrsia-system"), "")
		set("namespaces", fmt.Sprintf("[%q]", ns))
		c.policySays(t, mirrorNode(ns), "")
		set("operatorNamespace", `"elsewhere"`)
		c.policySays(t, mirrorNode("pyrsia-system"), "adding it to the value namespaces of the operator's chart")
	})
}

// Whatever the values are, CEL reads the same, and not a part of the expression.
// The chart's schema refuses all of these.
func TestPolicyQuotesItsValues(t *testing.T) {
	t.Parallel()
	c := withPolicy(t)
	ns := c.namespace(t)
	odd := []string{"/a'b", `/a"b`, `/a\b`, `/a\"] + ["/etc`, `/"]`, `/\u0041\x41`, "/<&>", "/${x}{{ y }}", "/*&!%@`", "/é\U0001F600"}
	data, err := json.Marshal(odd)
	must(t, err)
	c.usePolicies(t, "--skip-schema-validation", "--set-json", "hostPathRoots="+string(data))
	c.policySays(t, withHostPath(ns, "/etc"), "must be a folder directly below "+strings.Join(odd, " or ")+":")
}

// What was removed and installed again counts again, as it is then: also where the
// API server does not look for ConfigMaps any more once a policy with such
// parameters was removed (Kubernetes before 1.37 did not find them again).
func TestPoliciesComeBack(t *testing.T) {
	t.Parallel()
	c := withPolicy(t)
	const kept = "has set containerd up on Kubernetes nodes"
	before, after := c.namespace(t), c.namespace(t)
	c.setUp(t, before)
	c.deletionSays(t, before, kept)
	c.policySays(t, withHostPath(after, "/etc"), "must be a folder directly below /var/lib/pyrsia:")

	back := func(t *testing.T, args ...string) {
		c.usePolicies(t, args...)
		ns := c.namespace(t)
		c.deletionSays(t, ns, "")
		n := c.setUp(t, ns)
		c.deletionSays(t, ns, kept)
		c.deletionSays(t, after, "") // what is in another namespace does not hold it
		must(t, c.Patch(t.Context(), n, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
		c.deletionSays(t, ns, "") // a mirror that has put everything back, or has set up nothing
	}
	t.Run("the policies", func(t *testing.T) {
		c.removePolicies(t, before, after)
		back(t, "--set", "hostPathRoots={/var/lib/pyrsia,/mnt/other}")
		c.deletionSays(t, before, kept)
		c.policySays(t, withHostPath(after, "/etc"), "must be a folder directly below /var/lib/pyrsia or /mnt/other:")
		c.policySays(t, withHostPath(after, "/mnt/other/x"), "")
	})
	t.Run("the policies and the CRD", func(t *testing.T) {
		c.removePolicies(t, before, after)
		c.removeNodes(t)
		c.installAgain(t)
		back(t)
		c.deletionSays(t, before, "") // its mirror went with the kind
		c.policySays(t, mirrorNode(after), "")
		c.policySays(t, withHostPath(after, "/mnt/other/x"), "must be a folder directly below /var/lib/pyrsia:")
	})
	t.Run("the CRD alone", func(t *testing.T) {
		c.removeNodes(t)
		c.deletionSays(t, before, "")
		c.installAgain(t)
		back(t)
	})
}

// removeNodes removes all PyrsiaNodes and their kind.
func (c *cluster) removeNodes(t *testing.T) {
	t.Helper()
	c.empty(t)
	crd := named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "pyrsianodes.pyrsia.io")
	c.delete(t, crd)
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the CRD is still there"), err)
		}
		return nil
	})
}

func (c *cluster) installAgain(t *testing.T) {
	t.Helper()
	must(t, c.install())
}
