package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// folderOf is where the pods of a mirror keep its data.
func folderOf(set *appsv1.DaemonSet) string {
	for _, v := range set.Spec.Template.Spec.Volumes {
		if v.Name == "data" {
			return v.HostPath.Path
		}
	}
	return ""
}

func (c *cluster) awaitRefused(t *testing.T, n *v1alpha1.PyrsiaNode, parts ...string) {
	t.Helper()
	got := c.awaitCondition(t, n, v1alpha1.ConditionNotAllowed, metav1.ConditionTrue, "Refused")
	for _, part := range parts {
		if !strings.Contains(got.Message, part) {
			t.Errorf("the condition does not say %q: %s", part, got.Message)
		}
	}
}

// A folder of the machines belongs to the mirror that had it first, whichever of
// the two PyrsiaNodes is the older one.
func TestFolderStaysWithItsMirror(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	attacker, victim := lonely(t, c.namespace(t), "older"), lonely(t, c.namespace(t), "younger")
	c.create(t, attacker)
	c.daemonSet(t, attacker)
	c.create(t, victim)
	folder := folderOf(c.daemonSet(t, victim))
	before := folderOf(c.daemonSet(t, attacker))

	c.change(t, attacker, func(s *v1alpha1.PyrsiaNodeSpec) { s.Storage.HostPath = folder })
	c.awaitRefused(t, attacker, "the folder "+folder+" on the Kubernetes nodes is that of the PyrsiaNode "+victim.Namespace+"/"+victim.Name)
	if got := folderOf(c.daemonSet(t, attacker)); got != before {
		t.Errorf("its pods have the folder %s", got)
	}
	// The mirror whose folder it is goes on, as its next change shows.
	c.change(t, victim, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations = map[string]string{"example.com/a": "b"} })
	eventually(t, func() error {
		return errorIf(c.daemonSet(t, victim).Spec.Template.Annotations["example.com/a"] != "b", "its pods are not changed")
	})
	c.awaitAllowed(t, victim)
}

// NAMESPACE-NAME would be the same of a-b/c and a/b-c. A mirror that has such a
// folder keeps it.
func TestDefaultFolders(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	a := c.namespace(t)
	ab := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a + "-b", Labels: map[string]string{objects.LabelMirrors: objects.MirrorsAllowed}}}
	old := lonely(t, a, "old")
	c.create(t, ab, old)
	was := desired.DaemonSet(old, desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: old.Spec.Network.LedgerKey})
	for i := range was.Spec.Template.Spec.Volumes { // as v0.1.0 named it
		if v := &was.Spec.Template.Spec.Volumes[i]; *v.Name == "data" {
			v.HostPath.WithPath("/var/lib/pyrsia/" + a + "-old")
		}
	}
	must(t, apply.New(c.WithWatch, c.WithWatch).Apply(t.Context(), new(appsv1.DaemonSet), was))
	stop := c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	upgraded := func() {
		t.Helper()
		eventually(t, func() error {
			image := c.daemonSet(t, old).Spec.Template.Spec.InitContainers[0].Image
			return errorIf(image != "ghcr.io/pyrsia/pyrsia:test", "%s", image)
		})
		if got := folderOf(c.daemonSet(t, old)); got != "/var/lib/pyrsia/"+a+"-old" {
			t.Errorf("a mirror from before has its data in %s", got)
		}
	}
	upgraded()

	first, second := lonely(t, ab.Name, "c"), lonely(t, a, "b-c")
	c.create(t, first, second)
	one, two := folderOf(c.daemonSet(t, first)), folderOf(c.daemonSet(t, second))
	if one == two {
		t.Errorf("two mirrors have the folder %s", one)
	}
	c.awaitAllowed(t, first)
	c.awaitAllowed(t, second)

	// Also an operator that has only the record, or has lost it, leaves them there.
	for _, lose := range []bool{false, true} {
		stop()
		if lose {
			must(t, c.Delete(t.Context(), named("v1", "ConfigMap", pyrsianode.HostRecordName)))
		}
		stop = c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
		for n, want := range map[*v1alpha1.PyrsiaNode]string{old: "/var/lib/pyrsia/" + a + "-old", first: one, second: two} {
			value := fmt.Sprint("lost ", lose)
			c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations = map[string]string{"example.com/a": value} })
			eventually(t, func() error {
				return errorIf(c.daemonSet(t, n).Spec.Template.Annotations["example.com/a"] != value, "its pods are not changed")
			})
			if got := folderOf(c.daemonSet(t, n)); got != want {
				t.Errorf("%s/%s has moved from %s to %s (%s)", n.Namespace, n.Name, want, got, value)
			}
		}
	}
}

// The holder of a port on a machine is asked by the set-up of each mirror that
// names it: the port belongs to the mirror that had it first.
func TestPortStaysWithItsMirror(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	a, b := c.namespace(t), c.namespace(t)
	first, beside, second := lonely(t, a, "first"), lonely(t, a, "beside"), lonely(t, b, "second")
	for _, n := range []*v1alpha1.PyrsiaNode{first, beside, second} {
		n.Spec.Mirror = &v1alpha1.Mirror{Port: 5600}
	}
	c.create(t, first)
	c.daemonSet(t, first)
	c.create(t, beside, second)
	c.daemonSet(t, beside) // one namespace is in the same hands, and may have it twice, on other machines
	said := "the port 5600 of the Kubernetes nodes is that of the PyrsiaNode " + a + "/"
	c.awaitRefused(t, second, said)
	c.nothingOf(t, second)
	c.change(t, second, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Port = 5601 })
	c.awaitAllowed(t, second)
	c.awaitAllowed(t, first)

	// A port that leads into a pod is taken from the mirror that listens there.
	exposed := publisherNode(b, "http://127.0.0.1:1")
	exposed.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureHostPort, Port: 5600}}
	c.create(t, exposed)
	c.awaitRefused(t, exposed, said)
	c.nothingOf(t, exposed)
	c.change(t, exposed, func(s *v1alpha1.PyrsiaNodeSpec) { s.Network.Exposure.Port = 5602 })
	c.awaitAllowed(t, exposed)
	c.change(t, first, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Port = 5602 })
	c.awaitRefused(t, first, "the port 5602 of the Kubernetes nodes is that of the PyrsiaNode "+b+"/publisher")
}

// A port that a mirror leaves is its own until no machine asks there any more.
func TestPortIsLeftWhenThePodsHaveLeftIt(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	a, b := c.namespace(t), c.namespace(t)
	first, second := lonely(t, a, "first"), lonely(t, b, "second")
	first.Spec.Mirror, second.Spec.Mirror = &v1alpha1.Mirror{Port: 5600}, &v1alpha1.Mirror{Port: 5600}
	c.create(t, first)
	c.daemonSet(t, first)
	c.setWorkloadStatus(t, first, 1, 1)
	c.change(t, first, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.Port = 5601 })
	eventually(t, func() error { // the cluster's controllers do nothing yet
		args := c.frontendArgs(t, first)
		return errorIf(!slices.Contains(args, "127.0.0.1:5601"), "the frontend is %q", args)
	})
	c.create(t, second)
	c.awaitRefused(t, second, "the port 5600 of the Kubernetes nodes is that of the PyrsiaNode "+a+"/first")
	c.until(t, second, func() error {
		c.setWorkloadStatus(t, first, 1, 1) // the operator may have written the mirror's own DaemonSet since
		// Each change has it look again.
		second.Spec.PodAnnotations = map[string]string{"example.com/a": second.ResourceVersion}
		if err := c.Update(t.Context(), second); err != nil {
			return err
		}
		c.get(t, second)
		return errorIf(meta.FindStatusCondition(second.Status.Conditions, v1alpha1.ConditionNotAllowed) != nil, "%s", conditionsText(second.Status.Conditions))
	})
}

func (c *cluster) frontendArgs(t *testing.T, n *v1alpha1.PyrsiaNode) []string {
	t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: desired.FrontendName(n)}}
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(set), set) })
	return set.Spec.Template.Spec.Containers[0].Args
}

// Mirrors that had the same port or folder before that counted go on, and no
// third one comes.
func TestMirrorsFromBeforeTheClaimsGoOn(t *testing.T) {
	t.Parallel()
	t.Run("not recorded", func(t *testing.T) { mirrorsFromBeforeTheClaims(t, false) })
	t.Run("recorded without claims", func(t *testing.T) { mirrorsFromBeforeTheClaims(t, true) })
}

func mirrorsFromBeforeTheClaims(t *testing.T, recorded bool) {
	c := withoutPolicy(t)
	record := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "pyrsia-system", Name: pyrsianode.HostRecordName}, Data: map[string]string{pyrsianode.RecordedSince: "2026-11-24T00:00:00Z"}}
	a := apply.New(c.WithWatch, c.WithWatch)
	var old []*v1alpha1.PyrsiaNode
	for range 2 {
		n := lonely(t, c.namespace(t), "old")
		n.Spec.Mirror, n.Spec.Storage.HostPath = &v1alpha1.Mirror{Port: 5600}, "/var/lib/pyrsia/shared"
		c.create(t, n)
		must(t, a.Apply(t.Context(), new(appsv1.DaemonSet), desired.DaemonSet(n, desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: n.Spec.Network.LedgerKey, Host: claimOf(n)})))
		old = append(old, n)
		record.Data[string(n.UID)] = fmt.Sprintf(`{"pyrsiaNode":"%s/%s"}`, n.Namespace, n.Name)
	}
	if recorded {
		c.create(t, record)
	}
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	for _, n := range old {
		eventually(t, func() error {
			image := c.daemonSet(t, n).Spec.Template.Spec.InitContainers[0].Image
			return errorIf(image != "ghcr.io/pyrsia/pyrsia:test", "%s", image)
		})
	}
	eventually(t, func() error {
		told := 0
		for _, n := range old {
			c.get(t, n)
			switch got := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNotAllowed); {
			case got == nil:
			case got.Reason != "GoesOn":
				t.Errorf("%s/%s: %s", n.Namespace, n.Name, got.Message)
			case strings.Contains(got.Message, "the port 5600") && strings.Contains(got.Message, "the folder /var/lib/pyrsia/shared"):
				told++
			}
		}
		return errorIf(told != 1, "%d of two mirrors are told that they share the port and the folder, want one", told)
	})
	third := lonely(t, c.namespace(t), "third")
	third.Spec.Mirror = &v1alpha1.Mirror{Port: 5600}
	c.create(t, third)
	c.awaitRefused(t, third, "the port 5600")
	c.nothingOf(t, third)
}

// What a spec asks for at the end, and may not have, does not keep containerd
// from being put back where it was set up.
func TestRefusedAtTheEndIsPutBack(t *testing.T) {
	t.Parallel()
	c := withoutPolicy(t)
	c.operate(t, pyrsianode.DefaultHostRules("pyrsia-system"))
	other, n := lonely(t, c.namespace(t), "other"), lonely(t, c.namespace(t), "mirror")
	c.create(t, other)
	theirs := folderOf(c.daemonSet(t, other))
	c.create(t, n)
	mine := folderOf(c.daemonSet(t, n))
	c.placePod(t, n, "w1")
	c.setWorkloadStatus(t, n, 1, 1)
	c.awaitPlaces(t, n, standardPath, "w1")

	c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) {
		s.Storage.HostPath, s.Mirror = theirs, &v1alpha1.Mirror{ContainerdConfigPath: "/etc/cron.d", Port: 5601}
	})
	c.awaitRefused(t, n, theirs)
	c.delete(t, n)
	cleanup, nodes := c.awaitCleanup(t, n, standardPath)
	if !slices.Equal(nodes, []string{"w1"}) {
		t.Errorf("cleaned up are %v", nodes)
	}
	for _, v := range cleanup.Spec.Template.Spec.Volumes {
		if v.HostPath.Path != standardPath && v.HostPath.Path != mine {
			t.Errorf("the clean-up reaches %s", v.HostPath.Path)
		}
	}
	if args := strings.Join(cleanup.Spec.Template.Spec.InitContainers[0].Args, " "); strings.Contains(args, "5601") {
		t.Errorf("the clean-up takes back what names a port that was never this mirror's: %s", args)
	}
	pods := new(corev1.PodList) // which end with their DaemonSet
	must(t, c.List(t.Context(), pods, client.InNamespace(n.Namespace)))
	for i := range pods.Items {
		c.deletePod(&pods.Items[i])
	}
	c.cleanedUp(t, n, cleanup, nodes...)
	c.awaitGone(t, n)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup); !apierrors.IsNotFound(err) && cleanup.DeletionTimestamp == nil {
		t.Errorf("the clean-up is left: %v", err)
	}
}
