package controllers_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
)

// sharedCluster is an API server of the tests that change the rules, which have
// it one after the other, without an operator.
type sharedCluster struct {
	sync.Mutex
	c *cluster
}

// One has the policy, the other one not: their tests need not wait for each other.
var ruled, unruled sharedCluster

func (s *sharedCluster) take(t *testing.T) *cluster {
	t.Helper()
	needCluster(t)
	s.Lock()
	t.Cleanup(s.Unlock)
	if s.c == nil {
		c, err := startCluster()
		if err != nil {
			t.Fatalf("starting the API server: %v", err)
		}
		s.c = c
	}
	s.c.empty(t)
	must(t, client.IgnoreNotFound(s.c.Delete(t.Context(), named("v1", "ConfigMap", pyrsianode.HostRecordName))))
	return s.c
}

// empty removes all PyrsiaNodes, whatever their finalizers wait for.
func (c *cluster) empty(t *testing.T) {
	t.Helper()
	left := new(v1alpha1.PyrsiaNodeList)
	must(t, c.List(t.Context(), left))
	for i := range left.Items {
		n := &left.Items[i]
		must(t, client.IgnoreNotFound(c.Delete(t.Context(), n)))
		if err := c.Patch(t.Context(), n, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
}

func (s *sharedCluster) stop() {
	if s.c != nil {
		_ = s.c.env.Stop() // its tests are over
	}
}

// withPolicy is a cluster in which all is as it was installed.
func withPolicy(t *testing.T) *cluster {
	t.Helper()
	c := ruled.take(t)
	must(t, c.install())
	c.usePolicies(t)
	return c
}

func named(version, kind, name string) *unstructured.Unstructured {
	o := new(unstructured.Unstructured)
	o.SetAPIVersion(version)
	o.SetKind(kind)
	o.SetName(name)
	if kind == "ConfigMap" {
		o.SetNamespace("pyrsia-system")
	}
	return o
}

// withoutPolicy is a cluster in which somebody has removed the policy.
func withoutPolicy(t *testing.T) *cluster {
	t.Helper()
	c := unruled.take(t)
	binding := named("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "pyrsia-operator")
	must(t, client.IgnoreNotFound(c.Delete(t.Context(), binding)))
	eventually(t, func() error { return c.Create(t.Context(), withHostPath("default", "/etc"), client.DryRunAll) })
	return c
}

// operate runs an operator with rules until the test ends, or stop is called.
func (c *cluster) operate(t *testing.T, rules pyrsianode.HostRules) (stop func()) {
	t.Helper()
	o, err := c.runOperator(operatorOptions{hosts: rules, wrap: func(next http.RoundTripper) http.RoundTripper { return next }})
	must(t, err)
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			o.stop()
		}
	}
	t.Cleanup(stop)
	return stop
}

// useRoles gives the operator what the chart gives it with named namespaces, and
// takes its other rights away.
func (c *cluster) useRoles(t *testing.T, namespaces ...string) {
	t.Helper()
	values := "namespaces={" + strings.Join(namespaces, ",") + "}"
	for _, obj := range rendered(t, "--set", values) {
		if obj.GetName() == "pyrsia-operator-nodes" {
			if err := c.Create(t.Context(), obj); client.IgnoreAlreadyExists(err) != nil {
				t.Fatal(err)
			}
		}
	}
	c.usePolicies(t, "--set", values)
	must(t, c.Delete(t.Context(), named("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "pyrsia-operator")))
}
