// Package charts holds the Helm chart, and its tests.
package charts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// render runs `helm template` on the chart.
func render(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	args = append([]string{"tool", "-modfile=hack/tools.mod", "helm", "template", "pyrsia-operator", "charts/pyrsia-operator", "--namespace", "pyrsia-system"}, args...)
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = "..", &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return out, nil
}

// objects are those of a stream of YAML.
func objects(t *testing.T, data []byte) (out []*unstructured.Unstructured) {
	t.Helper()
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := new(unstructured.Unstructured)
		err := documents.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.Object == nil {
			continue
		}
		if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName() == "" {
			t.Fatalf("no kind, version or name: %v", o.Object)
		}
		out = append(out, o)
	}
}

// config/default is the chart without any value.
func TestDefaultIsTheChart(t *testing.T) {
	got, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("../config/default/install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(file), "\n") // a comment
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("run 'make manifests' (-config/default +chart):\n%s", diff)
	}
}

// What can be switched on comes in addition, and is what it should be.
func TestOptionalParts(t *testing.T) {
	plain, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	data, err := render(t, "--set", "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true",
		"--set", "metrics.serviceMonitor.labels.release=prometheus,metrics.prometheusRule.labels.release=prometheus",
		"--set", "networkPolicy.enabled=true,networkPolicy.nodeNamespaces={images,default}")
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]bool{}
	id := func(o *unstructured.Unstructured) string {
		return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
	}
	for _, o := range objects(t, plain) {
		before[id(o)] = true
	}
	more := map[string]*unstructured.Unstructured{}
	for _, o := range objects(t, data) {
		if !before[id(o)] {
			more[id(o)] = o
		}
	}
	for _, want := range []string{
		"Service pyrsia-system/pyrsia-operator-metrics", "ServiceMonitor pyrsia-system/pyrsia-operator", "PodMonitor pyrsia-system/pyrsia-nodes",
		"PrometheusRule pyrsia-system/pyrsia", "ConfigMap pyrsia-system/pyrsia-dashboard",
		"NetworkPolicy pyrsia-system/pyrsia-operator", "NetworkPolicy images/pyrsia-nodes", "NetworkPolicy default/pyrsia-nodes",
	} {
		o := more[want]
		if o == nil {
			t.Errorf("there is no %s", want)
			continue
		}
		delete(more, want)
		switch o.GetKind() {
		case "NetworkPolicy":
			isNetworkPolicy(t, o)
		case "ServiceMonitor", "PodMonitor", "PrometheusRule":
			if o.GetLabels()["release"] != "prometheus" {
				t.Errorf("%s has the labels %v", want, o.GetLabels())
			}
		}
	}
	for name := range more {
		t.Errorf("there is %s too", name)
	}
}

// isNetworkPolicy decodes one strictly; it must select pods and let something in.
func isNetworkPolicy(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	data, err := strict.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	policy := new(networkingv1.NetworkPolicy)
	if err := strict.UnmarshalStrict(data, policy); err != nil {
		t.Errorf("NetworkPolicy %s: %v", o.GetName(), err)
	}
	if len(policy.Spec.PodSelector.MatchLabels) == 0 || len(policy.Spec.Ingress) == 0 {
		t.Errorf("NetworkPolicy %s selects %v, and lets in %v", o.GetName(), policy.Spec.PodSelector, policy.Spec.Ingress)
	}
}

// Values that make no sense are refused before anything is installed.
func TestValuesAreChecked(t *testing.T) {
	for _, bad := range []string{
		"replicas=-1", "logLevel=loud", "metrics.serviceMonitor.interval=often", "networkPolicy.nodeNamespaces={Not_A_Name}",
		"image.repo=example.com/other", "metrics.serviceMonitors.enabled=true",
		"namespaces={Not_A_Name}", "hostPathRoots={/}", "hostPathRoots={var/lib}", "hostPathRoots=null", "hostPathRoots={/var/lib/../x}", "containerdConfigPaths={/etc/}", "mirrorPorts={80}", "mirrorPorts=null", "mirrorPorts={5001-}",
		"startupTaint.enabled=true,namespaces={images}",
	} {
		if _, err := render(t, "--set", bad); err == nil || !strings.Contains(err.Error(), strings.Split(strings.Split(bad, "=")[0], ".")[0]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// With named namespaces the operator has no right in the cluster as a whole: it
// has the same in each of them, and in its own namespace.
func TestNamedNamespacesGetRoles(t *testing.T) {
	plain, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	data, err := render(t, "--set", "namespaces={images,team-a,pyrsia-system}")
	if err != nil {
		t.Fatal(err)
	}
	var wide []any
	for _, o := range objects(t, plain) {
		if o.GetKind() == "ClusterRole" && o.GetName() == "pyrsia-operator" {
			wide, _, _ = unstructured.NestedSlice(o.Object, "rules")
		}
	}
	for _, rule := range wide { // which no Role gives
		r := rule.(map[string]any)
		r["resources"] = slices.DeleteFunc(r["resources"].([]any), func(name any) bool { return name == "namespaces" || name == "nodes" })
	}
	roles, bindings := map[string]bool{}, map[string]bool{}
	for _, o := range objects(t, data) {
		switch {
		case o.GetKind() == "ClusterRoleBinding", o.GetKind() == "ClusterRole" && !aggregated(o):
			t.Errorf("there is a %s %s", o.GetKind(), o.GetName())
		case o.GetKind() == "Role" && o.GetName() == "pyrsia-operator-nodes":
			roles[o.GetNamespace()] = true
			rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
			if diff := cmp.Diff(wide, rules); diff != "" {
				t.Errorf("rights in %s (-cluster +namespace):\n%s", o.GetNamespace(), diff)
			}
		case o.GetKind() == "RoleBinding" && o.GetName() == "pyrsia-operator-nodes":
			bindings[o.GetNamespace()] = true
		case o.GetKind() == "ValidatingAdmissionPolicy" && o.GetName() == "pyrsia-operator":
			if list := variables(o)[0]; list != `namespaces ["images","team-a","pyrsia-system"]` {
				t.Errorf("the policy has %s", list)
			}
		case o.GetKind() == "Deployment":
			if !strings.Contains(fmt.Sprint(o.Object["spec"]), "--namespaces=images,team-a,pyrsia-system") {
				t.Error("the operator is not told its namespaces")
			}
		}
	}
	want := map[string]bool{"images": true, "team-a": true, "pyrsia-system": true}
	if diff := cmp.Diff(want, roles) + cmp.Diff(want, bindings); diff != "" {
		t.Error(diff)
	}
}

// variables are those of a policy, with their expressions.
func variables(policy *unstructured.Unstructured) (out []string) {
	list, _, _ := unstructured.NestedSlice(policy.Object, "spec", "variables")
	for _, v := range list {
		v := v.(map[string]any)
		out = append(out, fmt.Sprint(v["name"], " ", v["expression"]))
	}
	return out
}

// What the policy allows are its first variables, in this order: people without
// Helm patch them by number. Values are in it as JSON writes them, so that none is
// taken for a part of an expression.
func TestPolicyHasTheValues(t *testing.T) {
	for namespace, args := range map[string][]string{
		"pyrsia-system": {"--set-json", `{"hostPathRoots":["/a","/b.c_d-e"],"containerdConfigPaths":["/x/y"],"mirrorPorts":["5001","6000-6010"],"namespaces":["images"]}`},
		// None of these passes the chart's schema, or is a namespace of Kubernetes.
		`a"'\b`: {"--skip-schema-validation", "--set-json", `{"hostPathRoots":["/a'\"","\\n"],"containerdConfigPaths":["{{ x }}","\"]+[\""],"mirrorPorts":["<&>"],"namespaces":["é"]}`},
	} {
		data, err := render(t, append(args, "--namespace", namespace)...) // the last one counts
		if err != nil {
			t.Fatal(err)
		}
		var values map[string]any
		if err := json.Unmarshal([]byte(args[len(args)-1]), &values); err != nil {
			t.Fatal(err)
		}
		values["operatorNamespace"] = namespace
		for _, o := range objects(t, data) {
			if o.GetKind() != "ValidatingAdmissionPolicy" || o.GetName() != "pyrsia-operator" {
				continue
			}
			for i, name := range []string{"namespaces", "hostPathRoots", "containerdConfigPaths", "mirrorPorts", "operatorNamespace"} {
				want, err := json.Marshal(values[name])
				if err != nil {
					t.Fatal(err)
				}
				if got := variables(o)[i]; got != name+" "+string(want) {
					t.Errorf("variable %d is %s, want %s %s", i, got, name, want)
				}
				delete(values, name)
			}
		}
		if len(values) > 0 {
			t.Errorf("the policy does not have %v", values)
		}
	}
}

// aggregated tells whether a ClusterRole adds to one that every cluster has.
func aggregated(o *unstructured.Unstructured) bool {
	for label := range o.GetLabels() {
		if strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-") {
			return true
		}
	}
	return false
}

// No role for users reaches the status or the finalizers, which the operator
// believes, or more than the kinds of this API.
func TestRolesOfUsers(t *testing.T) {
	data, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, o := range objects(t, data) {
		if o.GetKind() != "ClusterRole" || !aggregated(o) {
			continue
		}
		rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
		for _, rule := range rules {
			r := rule.(map[string]any)
			got[o.GetName()] += fmt.Sprint(r["apiGroups"], r["resources"], r["verbs"])
		}
	}
	want := map[string]string{
		"pyrsia-view":    "[pyrsia.io] [artifacts officialimagesets pyrsianodes] [get list watch]",
		"pyrsia-edit":    "[pyrsia.io] [artifacts officialimagesets] [create update patch delete deletecollection]",
		"pyrsia-pin":     "[pyrsia.io] [artifacts] [pin]",     // who may say spec.pinned
		"pyrsia-restore": "[pyrsia.io] [artifacts] [restore]", // who may lift a withdrawal
		"pyrsia-admin":   "[pyrsia.io] [pyrsianodes] [create update patch delete deletecollection]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The GitOps examples name charts and folders that there are, and values that
// the chart takes.
func TestGitOpsExamples(t *testing.T) {
	files, err := filepath.Glob("../docs/gitops/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	rendered := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects(t, data) {
			for _, field := range [][]string{{"spec", "path"}, {"spec", "source", "path"}, {"spec", "chart", "spec", "chart"}} {
				if path, ok, _ := unstructured.NestedString(o.Object, field...); ok {
					if _, err := os.Stat(filepath.Join("..", path)); err != nil {
						t.Errorf("%s: %s %s: %v", file, o.GetKind(), o.GetName(), err)
					}
				}
			}
			for _, field := range [][]string{{"spec", "values"}, {"spec", "source", "helm", "valuesObject"}} {
				values, ok, _ := unstructured.NestedMap(o.Object, field...)
				if !ok {
					continue
				}
				text, err := strict.Marshal(values)
				if err != nil {
					t.Fatal(err)
				}
				name := filepath.Join(t.TempDir(), "values.yaml")
				if err := os.WriteFile(name, text, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := render(t, "--values", name); err != nil {
					t.Errorf("%s: %s %s: %v", file, o.GetKind(), o.GetName(), err)
				}
				rendered++
			}
		}
	}
	if rendered != 2 {
		t.Errorf("%d examples have values, want 2", rendered)
	}
}
