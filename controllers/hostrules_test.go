package controllers_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
)

// ruleCase is a PyrsiaNode that breaks a rule, or none. The policy that the
// installation brings and the controller must say the same.
type ruleCase struct {
	change func(*v1alpha1.PyrsiaNode)
	broken string // the rule, as it is recorded; "" if none is
	want   string // a part of the policy's answer
}

func ruleCases() map[string]ruleCase {
	at := func(p string) func(*v1alpha1.PyrsiaNode) {
		return func(n *v1alpha1.PyrsiaNode) { n.Spec.Storage.HostPath = p }
	}
	setUpAt := func(p string) func(*v1alpha1.PyrsiaNode) {
		return func(n *v1alpha1.PyrsiaNode) { n.Spec.Mirror.ContainerdConfigPath = p }
	}
	annotated := func(key string) func(*v1alpha1.PyrsiaNode) {
		return func(n *v1alpha1.PyrsiaNode) { n.Spec.PodAnnotations = map[string]string{key: "x"} }
	}
	cases := map[string]ruleCase{
		"a mirror":                {func(*v1alpha1.PyrsiaNode) {}, "", ""},
		"a mirror with its image": {func(n *v1alpha1.PyrsiaNode) { n.Spec.Image = "example.com/own" }, "", ""},
		"an unmanaged one": {func(n *v1alpha1.PyrsiaNode) {
			n.Spec.Mirror.Containerd = v1alpha1.ContainerdUnmanaged
		}, "", ""},
		"a folder below the root": {at("/var/lib/pyrsia/x"), "", ""},
		"a folder with dots":      {at("/var/lib/pyrsia/a..b"), "", ""},
		"the first free port":     {func(n *v1alpha1.PyrsiaNode) { n.Spec.Mirror.Port = 1024 }, "", ""},
		"the default port":        {func(n *v1alpha1.PyrsiaNode) { n.Spec.Mirror = nil }, "", ""},
		"a port of root's": {func(n *v1alpha1.PyrsiaNode) { n.Spec.Mirror.Port = 1023 }, "port 1023",
			"spec.mirror.port 1023 must be one of 1024-65535: an administrator can add it to the chart's value mirrorPorts"},
		"annotations for others":     {annotated("example.com/logs"), "", ""},
		"annotations of the cluster": {annotated("cluster-autoscaler.kubernetes.io/safe-to-evict"), "", ""},
	}
	for _, p := range []string{"/.", "/etc", "/mnt/x", "/var/lib/pyrsia", "/var/lib/pyrsia/", "/var/lib/pyrsia/.", "/var/lib/pyrsia/.x", "/var/lib/pyrsia//x",
		"/var/lib/pyrsia/x/", "/var/lib/pyrsia/" + strings.Repeat("x", 256), "/var/lib/pyrsia/x/link", "/var/lib/pyrsiax", "/var/lib/./pyrsia/x", "/x/var/lib/pyrsia/y"} {
		cases["the folder "+p] = ruleCase{at(p), "hostPath " + p, "spec.storage.hostPath " + p + " must be a folder directly below /var/lib/pyrsia"}
	}
	for _, p := range pyrsianode.DefaultHostRules("").ContainerdConfigPaths {
		cases["set-up at "+p] = ruleCase{setUpAt(p), "", ""}
	}
	for _, p := range []string{"/etc", "/etc/containerd", "/etc/containerd/certs.d/", "/etc/containerd/certs.d/x", "/etc/containerd/./certs.d", "/root"} {
		cases["set-up at "+p] = ruleCase{setUpAt(p), "containerdConfigPath " + p, "spec.mirror.containerdConfigPath " + p + " must be one of /etc/containerd/certs.d, "}
	}
	for _, key := range []string{"container.apparmor.security.beta.kubernetes.io/init-data", "container.seccomp.security.alpha.kubernetes.io/node",
		"seccomp.security.alpha.kubernetes.io/pod", "cdi.k8s.io/gpu", "io.kubernetes.cri-o.Devices", "io.katacontainers.config.hypervisor.path",
		"run.oci.handler", "devices.nri.io/pod", "mounts.nri.containerd.io/pod", "devices.noderesource.dev/pod", "cpu-load-balancing.crio.io/pod"} {
		cases["the annotation "+key] = ruleCase{annotated(key), "podAnnotations " + key, "spec.podAnnotations must not tell the container runtime"}
	}
	return cases
}

// Each rule is kept by the API server, and again by the controller.
func TestHostRules(t *testing.T) {
	c, ns := ownNamespace(t)
	for name, tc := range ruleCases() {
		t.Run(name, func(t *testing.T) {
			n := mirrorNode(ns)
			tc.change(n)
			c.policySays(t, n, tc.want)
			broken := pyrsianode.DefaultHostRules("pyrsia-system").Refusals(n, pyrsianode.HostFacts{NamespaceAllowed: true, Wants: pyrsianode.Wants(n, nil)})
			if tc.broken == "" && len(broken) > 0 || tc.broken != "" && (len(broken) != 1 || broken[0].Rule != tc.broken) {
				t.Errorf("the controller says %+v, want %q", broken, tc.broken)
			}
		})
	}
}

// policySays creates an object, dry: "" is acceptance, else a part of the refusal.
func (c *cluster) policySays(t *testing.T, n *v1alpha1.PyrsiaNode, want string) {
	t.Helper()
	eventually(t, func() error { // a new policy, and a label, take a moment
		return says(c.Create(t.Context(), n.DeepCopy(), client.DryRunAll), want)
	})
}

func says(err error, want string) error {
	return errorIf(want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)), "the API server says %v, want %q", err, want)
}

// Mirrors, and nodes with a port of the host, need a namespace that an
// administrator has allowed; publishers need none.
func TestNamespacesOfMirrors(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	const refused = "is not allowed: an administrator allows it by 'kubectl label namespace "
	exposed := func(ns string, kind v1alpha1.ExposureType) *v1alpha1.PyrsiaNode {
		n := publisherNode(ns, "http://127.0.0.1:1")
		n.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: kind}}
		return n
	}
	for label, allowed := range map[string]bool{"": false, "yes": false, "allowed": true, "pyrsia-system": true} {
		t.Run("label "+label, func(t *testing.T) {
			ns := "pyrsia-system" // the operator's own, which has no label
			if label != ns {
				made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{objects.LabelMirrors: label}}}
				if label == "" {
					made.Labels = nil
				}
				c.create(t, made)
				ns = made.Name
			}
			want := ""
			if !allowed {
				want = refused + ns + " pyrsia.io/mirrors=allowed'"
			}
			c.policySays(t, mirrorNode(ns), want)
			c.policySays(t, exposed(ns, v1alpha1.ExposureHostPort), want)
			c.policySays(t, exposed(ns, v1alpha1.ExposureNodePort), "")
			c.policySays(t, publisherNode(ns, "http://127.0.0.1:1"), "")
		})
	}
}

// The policy looks at what is new: not at status, at labels, or at what is going.
func TestPolicyLooksAtNewSpecs(t *testing.T) {
	c, ns := ownNamespace(t)
	n := mirrorNode(ns)
	n.Finalizers = []string{"example.com/keep"}
	c.create(t, n)
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	change(t, c, space, func(s *corev1.Namespace) { delete(s.Labels, objects.LabelMirrors) })
	c.policySays(t, mirrorNode(ns), "is not allowed") // it knows by now
	change := func(what string, do func(*v1alpha1.PyrsiaNode), write func(client.Object, client.Patch) error, want string) {
		t.Helper()
		c.get(t, n)
		before := n.DeepCopy()
		do(n)
		if err := says(write(n, client.MergeFrom(before)), want); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	update := func(n client.Object, p client.Patch) error { return c.Patch(t.Context(), n, p) }
	change("a label", func(n *v1alpha1.PyrsiaNode) { n.Labels = map[string]string{"a": "b"} }, update, "")
	change("the status", func(n *v1alpha1.PyrsiaNode) { n.Status.PeerID = "x" }, func(n client.Object, p client.Patch) error { return c.Status().Patch(t.Context(), n, p) }, "")
	change("the spec", func(n *v1alpha1.PyrsiaNode) { n.Spec.Image = "example.com/other" }, update, "is not allowed")
	c.delete(t, n)
	change("the spec of one that is going", func(n *v1alpha1.PyrsiaNode) { n.Spec.Image = "example.com/other" }, update, "")
	change("a finalizer", func(n *v1alpha1.PyrsiaNode) { n.Finalizers = nil }, update, "")
}

func withHostPath(ns, p string) *v1alpha1.PyrsiaNode {
	n := mirrorNode(ns)
	n.Spec.Storage.HostPath = p
	return n
}

// The chart's defaults are the operator's, and the policy knows the same
// annotations.
func TestChartHasTheSameRules(t *testing.T) {
	data, err := os.ReadFile("../charts/pyrsia-operator/values.yaml")
	must(t, err)
	var values struct {
		HostPathRoots         []string `json:"hostPathRoots"`
		ContainerdConfigPaths []string `json:"containerdConfigPaths"`
		MirrorPorts           []string `json:"mirrorPorts"`
	}
	must(t, yaml.Unmarshal(data, &values))
	rules := pyrsianode.DefaultHostRules("")
	if fmt.Sprint(values.HostPathRoots, values.ContainerdConfigPaths, values.MirrorPorts) != fmt.Sprint(rules.HostPathRoots, rules.ContainerdConfigPaths, rules.MirrorPorts) {
		t.Errorf("the chart has %+v, the operator %+v", values, rules)
	}
	policy, err := os.ReadFile("../charts/pyrsia-operator/templates/policy.yaml")
	must(t, err)
	if !strings.Contains(string(policy), "r'"+pyrsianode.RuntimeAnnotations+"'") {
		t.Error("the policy knows other annotations of runtimes than the controller")
	}
}
