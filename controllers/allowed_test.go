package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// lonely is a mirror that has all it needs to be started.
func lonely(t *testing.T, ns, name string) *v1alpha1.PyrsiaNode {
	t.Helper()
	n := mirrorNode(ns)
	n.Name = name
	n.Spec.Network = &v1alpha1.Network{LedgerKey: fixtures.NewBook(t).Key,
		Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"}}
	return n
}

// nothingOf tells what was made for a PyrsiaNode.
func (c *cluster) nothingOf(t *testing.T, n *v1alpha1.PyrsiaNode) {
	t.Helper()
	for _, list := range []client.ObjectList{new(appsv1.DaemonSetList), new(appsv1.StatefulSetList), new(corev1.ServiceList), new(corev1.SecretList)} {
		must(t, c.List(t.Context(), list, client.InNamespace(n.Namespace), client.MatchingLabels{objects.LabelInstance: n.Name}))
		if meta.LenList(list) > 0 {
			t.Errorf("%s: %T has %d items", n.Name, list, meta.LenList(list))
		}
	}
}

func (c *cluster) label(t *testing.T, ns, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, objects.LabelMirrors, value)
	must(t, c.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.RawPatch(types.MergePatchType, []byte(patch))))
}

func (c *cluster) daemonSet(t *testing.T, n *v1alpha1.PyrsiaNode) *appsv1.DaemonSet {
	t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}}
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(set), set) })
	return set
}

// Where the policy is missing, the controller refuses the same: nothing is made
// for such a PyrsiaNode, and what ran before goes on.
func TestControllerRefusesWithoutPolicy(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	ns := c.namespace(t)

	t.Run("each rule", func(t *testing.T) {
		for name, tc := range ruleCases() {
			if tc.broken == "" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				n := lonely(t, ns, "bad")
				tc.change(n)
				c.create(t, n)
				c.awaitCondition(t, n, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
				c.awaitCondition(t, n, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ConditionNotAllowed)
				c.nothingOf(t, n)
				if len(n.Finalizers) > 0 {
					t.Errorf("it has the finalizers %v", n.Finalizers)
				}
				c.delete(t, n)
			})
		}
	})
	t.Run("a change", func(t *testing.T) {
		n := lonely(t, ns, "good")
		c.create(t, n)
		before := c.daemonSet(t, n)
		c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "/" + "etc" })
		got := c.awaitCondition(t, n, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
		if !strings.Contains(got.Message, `kubectl -n `+ns+` patch pyrsianode good --type merge -p '{"spec":{"storage":{"hostPath":"/var/lib/pyrsia/`+ns+`_good"}}}'`) {
			t.Errorf("no line mends it: %s", got.Message)
		}
		if c.get(t, before); before.Generation != c.daemonSet(t, n).Generation || !strings.Contains(fmt.Sprint(before.Spec.Template.Spec.Volumes), ns+"_good") {
			t.Errorf("its pods were changed: %v", before.Spec.Template.Spec.Volumes)
		}
		c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "" })
		c.awaitAllowed(t, n)
	})
	t.Run("a change of what is deleted", func(t *testing.T) { // the clean-up runs as root, by the spec
		n := lonely(t, ns, "going")
		n.Finalizers = []string{"example.com/keep"}
		c.create(t, n)
		c.daemonSet(t, n)
		c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "/" + "etc" })
		c.delete(t, n)
		c.until(t, n, func() error { return errorIf(len(n.Finalizers) > 1, "its finalizers are %v", n.Finalizers) })
		cleanup := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.CleanupName(n)}}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup); !apierrors.IsNotFound(err) {
			t.Errorf("the clean-up was started (%v)", err)
		}
		c.until(t, n, func() error {
			n.Finalizers = nil
			return c.Update(t.Context(), n)
		})
	})
	t.Run("another one's folder", func(t *testing.T) {
		a := c.namespace(t)
		first, second := lonely(t, a, "first"), lonely(t, c.namespace(t), "second")
		c.create(t, first)
		c.daemonSet(t, first)
		second.Spec.Storage.HostPath = "/var/lib/pyrsia/" + a + "_first"
		c.create(t, second)
		c.awaitRefused(t, second, "the folder /var/lib/pyrsia/"+a+"_first on the Kubernetes nodes is that of the PyrsiaNode "+a+"/first")
		c.nothingOf(t, second)
		c.change(t, second, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "/var/lib/pyrsia/another" })
		c.awaitAllowed(t, second)
		c.awaitAllowed(t, first)
	})
}

func (c *cluster) awaitAllowed(t *testing.T, n *v1alpha1.PyrsiaNode) {
	t.Helper()
	c.until(t, n, func() error {
		return errorIf(meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNotAllowed) != nil || !status.IsTrue(n, v1alpha1.ConditionKeysReady), "%s", conditionsText(n.Status.Conditions))
	})
}

// A mirror starts as soon as its namespace is allowed, and goes on when it is no
// longer allowed, with a condition that says how to fix it.
func TestNamespaceGetsAndLosesItsLabel(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	stop := c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	c.create(t, space)
	ns := space.Name
	n := lonely(t, ns, "mirror")
	c.create(t, n)
	got := c.awaitCondition(t, n, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
	if !strings.Contains(got.Message, "'kubectl label namespace "+ns+" pyrsia.io/mirrors=allowed'") {
		t.Errorf("no line mends it: %s", got.Message)
	}
	c.awaitCondition(t, n, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ConditionNotAllowed)
	c.nothingOf(t, n)
	c.label(t, ns, `"allowed"`)
	c.daemonSet(t, n)
	c.awaitAllowed(t, n)

	c.label(t, ns, "null")
	c.awaitCondition(t, n, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "GoesOn")
	stop()
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system")) // which knows by the record alone
	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations = map[string]string{"example.com/a": "b"} })
	eventually(t, func() error { // it is taken care of as ever
		return errorIf(c.daemonSet(t, n).Spec.Template.Annotations["example.com/a"] != "b", "its pods are not changed")
	})
	other := lonely(t, ns, "other") // nobody has allowed this one
	c.create(t, other)
	c.awaitCondition(t, other, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
	c.nothingOf(t, other)

	// It is another PyrsiaNode when it is made again.
	c.delete(t, n)
	eventually(t, func() error { // the operator has a finalizer on it
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(n), n); err != nil {
			return client.IgnoreNotFound(err)
		}
		n.Finalizers = nil
		return client.IgnoreNotFound(c.Update(t.Context(), n))
	})
	again := lonely(t, ns, "mirror")
	eventually(t, func() error { return c.Create(t.Context(), again) })
	c.awaitCondition(t, again, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
}

// Mirrors that ran before there were rules go on, whatever they break; they
// cannot go further, and no new one comes.
func TestMirrorsFromBeforeTheRulesGoOn(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	c.create(t, ns)
	old, never := lonely(t, ns.Name, "old"), lonely(t, ns.Name, "never")
	old.Spec.Storage.HostPath, old.Spec.Mirror = "/mnt/pyrsia", &v1alpha1.Mirror{Port: 5900, ContainerdConfigPath: "/etc/rancher/certs.d"}
	never.Spec.Storage.HostPath = "/mnt/pyrsia"
	never.Annotations = map[string]string{"pyrsia.io/allowed": "true"} // what a tenant may try
	c.create(t, old, never)
	// As the operator of v0.1.0 has left it.
	a := apply.New(c.WithWatch, c.WithWatch)
	must(t, a.Apply(t.Context(), new(appsv1.DaemonSet), desired.DaemonSet(old, desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: old.Spec.Network.LedgerKey, Host: claimOf(old)})))

	stop := c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	got := c.awaitCondition(t, old, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "GoesOn")
	for _, part := range []string{"kubectl label namespace", "/mnt/pyrsia is not a folder", "/etc/rancher/certs.d is none of"} {
		if !strings.Contains(got.Message, part) {
			t.Errorf("the condition does not say %q: %s", part, got.Message)
		}
	}
	c.awaitCondition(t, never, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
	c.nothingOf(t, never)
	eventually(t, func() error { // it is upgraded as ever
		image := c.daemonSet(t, old).Spec.Template.Spec.InitContainers[0].Image
		return errorIf(image != "ghcr.io/pyrsia/pyrsia:test", "%s", image)
	})
	stop()
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	c.change(t, old, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "/" + "etc" })
	c.awaitCondition(t, old, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
	// What was mended once is not kept any more.
	c.change(t, old, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "" })
	c.awaitCondition(t, old, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "GoesOn")
	c.change(t, old, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = "/mnt/pyrsia" })
	c.awaitCondition(t, old, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
}

// The record comes back when somebody deletes it, and keeps no PyrsiaNode for ever.
func TestRecordOfMirrors(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	ns := c.namespace(t)
	record := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "pyrsia-system", Name: pyrsianode.HostRecordName}}
	has := func(uid types.UID) bool {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(record), record); err != nil {
			return false
		}
		return record.Data[string(uid)] != ""
	}
	wait := func(uid types.UID, want bool) {
		t.Helper()
		eventually(t, func() error { return errorIf(has(uid) != want, "%s is recorded: %v", uid, !want) })
	}
	first, second := lonely(t, ns, "first"), lonely(t, ns, "second")
	first.Spec.Mirror.Containerd = v1alpha1.ContainerdUnmanaged
	c.create(t, first)
	wait(first.UID, true)
	c.get(t, record)
	c.delete(t, record)
	c.create(t, second)
	wait(second.UID, true)
	wait(first.UID, true)
	c.delete(t, first)
	c.awaitGone(t, first)
	more := 0
	eventually(t, func() error { // what is gone goes when another one comes, and the operator's cache knows of it
		more++
		next := lonely(t, ns, fmt.Sprint("more-", more))
		c.create(t, next)
		wait(next.UID, true)
		return errorIf(has(first.UID), "the record keeps what is gone")
	})
}

// An operator with named namespaces needs no cluster-wide rights: it works in
// them with the Roles of the chart, and nowhere else.
func TestNamedNamespaces(t *testing.T) {
	t.Parallel()
	c := withPolicy(t)
	rules, images, other := pyrsianode.DefaultHostRules("pyrsia-system"), c.namespace(t), c.namespace(t)
	rules.Namespaces = []string{images}
	c.useRoles(t, rules.Namespaces...)
	inside, publisher, outside := lonely(t, images, "mirror"), publisherNode(images, "http://127.0.0.1:1"), publisherNode(other, "http://127.0.0.1:1")
	eventually(t, func() error { return client.IgnoreAlreadyExists(c.Create(t.Context(), inside)) })
	c.create(t, publisher, outside)
	c.policySays(t, lonely(t, other, "mirror"), "adding it to the value namespaces")
	c.operate(t, rules)
	c.daemonSet(t, inside)
	c.awaitCondition(t, publisher, v1alpha1.ConditionKeysReady, metav1.ConditionTrue, "")
	c.delete(t, inside)
	eventually(t, func() error { // it may clean up as well
		cleanup := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: images, Name: desired.CleanupName(inside)}}
		return c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup)
	})
	c.get(t, outside)
	if c.nothingOf(t, outside); len(outside.Status.Conditions) > 0 {
		t.Errorf("it works in another namespace: %s", conditionsText(outside.Status.Conditions))
	}
}
