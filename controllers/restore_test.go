package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

const standardPath = "/etc/containerd/certs.d"

// finalizerOfMirrors keeps those that set containerd up.
const finalizerOfMirrors = "pyrsia.io/containerd"

// spread is a mirror with a pod on each of some Kubernetes nodes.
func (c *cluster) spread(t *testing.T, nodes ...string) (mirror *v1alpha1.PyrsiaNode, pods map[string]*corev1.Pod) {
	t.Helper()
	ns := c.namespace(t)
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	mirror = mirrorNode(ns)
	c.create(t, publisher, mirror)
	c.runPod(t, publisher, "")
	c.awaitTemplate(t, mirror)
	pods = map[string]*corev1.Pod{}
	for _, node := range nodes {
		pods[node] = c.placePod(t, mirror, node)
	}
	c.setWorkloadStatus(t, mirror, int32(len(nodes)), int32(len(nodes)))
	c.awaitPlaces(t, mirror, standardPath, nodes...)
	return mirror, pods
}

// placePod makes a pod of the mirror on a Kubernetes node.
func (c *cluster) placePod(t *testing.T, mirror *v1alpha1.PyrsiaNode, node string) *corev1.Pod {
	t.Helper()
	pod := fixtures.PodOn(mirror, "mirror", node)
	c.create(t, pod)
	return pod
}

// awaitPlaces waits until the status says that one path is set up on these
// Kubernetes nodes, and none other.
func (c *cluster) awaitPlaces(t *testing.T, mirror *v1alpha1.PyrsiaNode, path string, nodes ...string) {
	t.Helper()
	var want []v1alpha1.ContainerdSetup
	if len(nodes) > 0 {
		want = []v1alpha1.ContainerdSetup{{Path: path, Nodes: nodes}}
	}
	c.until(t, mirror, func() error {
		diff := cmp.Diff(want, mirror.Status.Containerd)
		return errorIf(diff != "", "status.containerd (-want +got):\n%s%s", diff, conditionsText(mirror.Status.Conditions))
	})
}

// awaitCleanup waits for the clean-up of a path, and says which Kubernetes nodes
// it is for.
func (c *cluster) awaitCleanup(t *testing.T, mirror *v1alpha1.PyrsiaNode, path string) (set *appsv1.DaemonSet, nodes []string) {
	t.Helper()
	set = &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: mirror.Namespace, Name: desired.CleanupName(mirror)}}
	c.until(t, set, func() error {
		at := set.Spec.Template.Annotations[objects.AnnotationPath]
		return errorIf(at != path, "the clean-up is for %q, want %q", at, path)
	})
	if a := set.Spec.Template.Spec.Affinity; a != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			nodes = append(nodes, term.MatchFields[0].Values...)
		}
	}
	return set, nodes
}

// cleanedUp plays the pods of the clean-up on some Kubernetes nodes, which do
// their work.
func (c *cluster) cleanedUp(t *testing.T, mirror *v1alpha1.PyrsiaNode, set *appsv1.DaemonSet, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		pod := fixtures.PodOn(mirror, "cleanup", node)
		pod.Annotations = set.Spec.Template.Annotations
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
		c.create(t, pod)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		must(t, c.Status().Update(t.Context(), pod))
	}
	c.setDaemonSetStatus(t, mirror.Namespace, set.Name, int32(len(nodes)), int32(len(nodes)))
}

func (c *cluster) awaitGone(t *testing.T, objs ...client.Object) {
	t.Helper()
	eventually(t, func() error {
		for _, obj := range objs {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T %s is still there: %v", obj, obj.GetName(), err)
			}
		}
		return nil
	})
}

// A Kubernetes node that loses its mirror, because nodeSelector is narrowed or
// its label goes, gets its own set-up back, and stays in the status until then.
func TestNodeThatFallsOutIsPutBack(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a", "b", "c")
	cleanup := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: mirror.Namespace, Name: desired.CleanupName(mirror)}}

	// A pod that is replaced leaves its node for a moment: nothing is put back.
	c.deletePod(pods["a"])
	time.Sleep(time.Second)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup); !apierrors.IsNotFound(err) {
		t.Fatalf("a node whose pod is replaced is cleaned up: %v", err)
	}
	c.placePod(t, mirror, "a")

	c.deletePod(pods["c"])
	c.setWorkloadStatus(t, mirror, 2, 2)
	cleanup, nodes := c.awaitCleanup(t, mirror, standardPath)
	if !slices.Equal(nodes, []string{"c"}) {
		t.Fatalf("cleaned up are %v, want c", nodes)
	}
	spec := cleanup.Spec.Template.Spec
	if a := spec.Affinity.PodAntiAffinity; a == nil || len(a.RequiredDuringSchedulingIgnoredDuringExecution) != 1 {
		t.Error("the clean-up may run beside a mirror")
	}
	if args := strings.Join(spec.InitContainers[0].Args, " "); !strings.Contains(args, "--owner "+desired.SetupOwner(mirror)+" --all") {
		t.Errorf("the clean-up runs %q", args)
	}
	c.awaitPlaces(t, mirror, standardPath, "a", "b", "c") // until it is done
	c.cleanedUp(t, mirror, cleanup, "c")
	c.awaitPlaces(t, mirror, standardPath, "a", "b")
	c.awaitGone(t, cleanup)
}

// That a node is put back is written down before the clean-up goes: a status that
// cannot be written, because the PyrsiaNode has changed meanwhile, must not make it
// run again.
func TestCleanUpIsMadeOnce(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a", "b")
	c.deletePod(pods["b"])
	c.setWorkloadStatus(t, mirror, 1, 1)
	cleanup, _ := c.awaitCleanup(t, mirror, standardPath)
	first := cleanup.UID
	c.cleanedUp(t, mirror, cleanup, "b")
	for i := range 300 {
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/touched":"%d"}}}`, i))
		must(t, c.Patch(t.Context(), &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{Namespace: mirror.Namespace, Name: mirror.Name}}, patch))
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup); err == nil && cleanup.UID != first {
			t.Fatal("a node that was put back is cleaned up once more")
		}
	}
	c.awaitPlaces(t, mirror, standardPath, "a")
	c.awaitGone(t, cleanup)
}

// A node that has left the cluster is not waited for.
func TestNodeThatHasLeftTheCluster(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a", "b")
	c.deletePod(pods["b"])
	c.setWorkloadStatus(t, mirror, 1, 1)
	cleanup, _ := c.awaitCleanup(t, mirror, standardPath)
	c.setDaemonSetStatus(t, mirror.Namespace, cleanup.Name, 0, 0)
	c.awaitPlaces(t, mirror, standardPath, "a")
	c.awaitGone(t, cleanup)
}

// A path that changes is set up at the new place, and then put back at the old
// one, while the mirror goes on with its data.
func TestPathThatChangesIsPutBack(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, _ := c.spread(t, "a", "b")
	const other = "/etc/docker/certs.d"
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) { s.Mirror.ContainerdConfigPath = other })
	eventually(t, func() error {
		template := c.awaitTemplate(t, mirror)
		return errorIf(!slices.ContainsFunc(template.Spec.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil && v.HostPath.Path == other }), "the workload has no volume %s", other)
	})
	c.setWorkloadStatus(t, mirror, 2, 2)
	cleanup, nodes := c.awaitCleanup(t, mirror, standardPath)
	if !slices.Equal(nodes, []string{"a", "b"}) || len(cleanup.Spec.Template.Spec.InitContainers) != 1 || cleanup.Spec.Template.Spec.Affinity.PodAntiAffinity != nil {
		t.Errorf("cleaned up are %v by %+v, want a and b without the mirror's data", nodes, cleanup.Spec.Template.Spec)
	}
	c.cleanedUp(t, mirror, cleanup, nodes...)
	c.awaitPlaces(t, mirror, other, "a", "b")
	c.awaitGone(t, cleanup)
}

// A mirror that shall not manage containerd any more puts it back once, and its
// pods have nothing to do with containerd from then on.
func TestUnmanagedPutsBackOnce(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, _ := c.spread(t, "a")
	c.change(t, mirror, func(s *v1alpha1.PyrsiaNodeSpec) {
		s.Mirror.Containerd = v1alpha1.ContainerdUnmanaged
	})
	eventually(t, func() error {
		template := c.awaitTemplate(t, mirror)
		return errorIf(slices.ContainsFunc(template.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == objects.ContainerSetUp }), "the pods still touch containerd")
	})
	c.setWorkloadStatus(t, mirror, 1, 1)
	cleanup, nodes := c.awaitCleanup(t, mirror, standardPath)
	c.cleanedUp(t, mirror, cleanup, nodes...)
	c.awaitPlaces(t, mirror, "")
	c.awaitGone(t, cleanup)
	c.until(t, mirror, func() error {
		return errorIf(slices.Contains(mirror.Finalizers, finalizerOfMirrors), "the finalizer stays, though nothing is to be put back")
	})
	c.delete(t, mirror)
	c.awaitGone(t, mirror)
}

// At its deletion a mirror puts back all that the status says, at every path,
// and nothing else.
func TestDeletionPutsBackWhatTheStatusSays(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	mirror, pods := c.spread(t, "a", "b")
	c.until(t, mirror, func() error { // as after a path that changed a moment ago
		mirror.Status.Containerd = append([]v1alpha1.ContainerdSetup{{Path: "/etc/old", Nodes: []string{"x"}}}, mirror.Status.Containerd...)
		return c.Status().Update(t.Context(), mirror)
	})
	c.delete(t, mirror)
	for _, p := range pods {
		c.deletePod(p)
	}
	for _, want := range []v1alpha1.ContainerdSetup{{Path: "/etc/old", Nodes: []string{"x"}}, {Path: standardPath, Nodes: []string{"a", "b"}}} {
		cleanup, nodes := c.awaitCleanup(t, mirror, want.Path)
		if !slices.Equal(nodes, want.Nodes) || cleanup.Spec.Template.Spec.Affinity.PodAntiAffinity != nil {
			t.Errorf("%s is cleaned up on %v, want %v", want.Path, nodes, want.Nodes)
		}
		c.cleanedUp(t, mirror, cleanup, nodes...)
	}
	c.awaitGone(t, mirror)
}
