package pyrsianode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// containerdFinalizer keeps a mirror that manages containerd until the
// Kubernetes nodes have their own set-up back.
const containerdFinalizer = "pyrsia.io/containerd"

const (
	// cleanupLimit bounds the clean-up, and podLimit the end of the mirror's pods:
	// a Kubernetes node that is gone must not block the deletion.
	cleanupLimit = 2 * time.Minute
	podLimit     = 30 * time.Second
	cleanupPoll  = 2 * time.Second
	// refusedLimit is how long a policy or quota that refuses the clean-up may be
	// mended: until then the condition says what to do, and then an event what is left.
	refusedLimit = 10 * time.Minute
)

// addFinalizer adds it, before anything is written to a Kubernetes node.
func (r *Reconciler) addFinalizer(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	if !desired.ManagesContainerd(n) || controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return nil
	}
	before := n.DeepCopy()
	controllerutil.AddFinalizer(n, containerdFinalizer)
	return objects.Wrap(r.Client.Patch(ctx, n, status.UnlessChanged(before)), "adding the finalizer")
}

// cleanup gives the Kubernetes nodes their containerd set-up back. The mirror
// goes first, and its last pod, because they would install it again. Dying at
// any point is repaired by the next call, which looks at what is there.
func (r *Reconciler) cleanup(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(n, containerdFinalizer) {
		return 0, nil
	}
	// The creator of a PyrsiaNode can write any finalizer: it must not give power
	// over the Kubernetes nodes, which publishers do not have.
	if n.Spec.Role != v1alpha1.RoleMirror {
		return 0, r.removeFinalizer(ctx, n)
	}
	// The cache may still show what is gone already: nothing may be made for that.
	if err := r.applier.Live.Get(ctx, client.ObjectKeyFromObject(n), n); err != nil || !controllerutil.ContainsFinalizer(n, containerdFinalizer) || n.DeletionTimestamp.IsZero() {
		return 0, objects.Wrap(client.IgnoreNotFound(err), "reading the PyrsiaNode again")
	}
	if _, err := objects.StripNode(n); err != nil {
		return 0, err
	}
	before := n.DeepCopy()
	done, err := r.restoreAll(ctx, n)
	if err == nil && done {
		return 0, r.removeFinalizer(ctx, n)
	}
	if !equality.Semantic.DeepEqual(before.Status, n.Status) {
		conditions := slices.Clone(*n.Conditions()) // the answer to the patch overwrites n
		if patchErr := r.Client.Status().Patch(ctx, n, status.UnlessChanged(before)); patchErr != nil {
			return 0, errors.Join(err, client.IgnoreNotFound(objects.Wrap(patchErr, "writing the status")))
		}
		r.tellAlarms(before, n, conditions)
	}
	return cleanupPoll, err
}

// restoreAll tells when all that the mirror has set up is put back, or nothing
// more can be done for it.
func (r *Reconciler) restoreAll(ctx context.Context, n *v1alpha1.PyrsiaNode) (done bool, err error) {
	may, err := r.judge(ctx, n) // the spec may have been changed since it was deleted
	if err != nil {
		return false, err
	}
	if !may.allowed() && r.keepAllowedPlaces(n, may) == 0 {
		r.tellLeft(n, "what the spec says is not allowed, so nothing is done by it: "+may.refusals[0].why)
		return true, nil
	}
	for _, name := range []string{n.Name, desired.FrontendName(n)} {
		if err := apply.DeleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", name); err != nil {
			return false, err
		}
	}
	pods, err := r.Nodes.Pods(ctx, n)
	if err != nil {
		return false, err
	}
	if len(n.Status.Containerd) > 0 && may.allowed() { // and a pod that has come since
		recordSetup(n, pods)
	}
	if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return r.stillThere(n, p) }) {
		return false, nil
	}
	// Nothing recorded: by v0.1.0, or deleted before anything was.
	at := desired.Place{Path: desired.MirrorSpec(n).ContainerdConfigPath}
	if recorded := n.Status.Containerd; len(recorded) > 0 {
		at = desired.Place{Path: recorded[0].Path, Nodes: recorded[0].Nodes[:min(len(recorded[0].Nodes), cleanupNodes)]}
	}
	return r.restoreAt(ctx, n, desired.Inputs{Image: r.NodeImage, Host: may.host, EveryNode: may.everyNode}, at)
}

// keepAllowedPlaces leaves of the places that the status tells, if not even the
// spec is allowed, those in which a mirror may set containerd up, and counts them.
func (r *Reconciler) keepAllowedPlaces(n *v1alpha1.PyrsiaNode, may verdict) int {
	n.Status.Containerd = slices.DeleteFunc(n.Status.Containerd, func(s v1alpha1.ContainerdSetup) bool {
		return !slices.Contains(r.Hosts.ContainerdConfigPaths, s.Path) && !slices.Contains(may.keeps, refusedConfigPath+s.Path)
	})
	return len(n.Status.Containerd)
}

// restoreAt brings the clean-up of one place further, and tells when it was the
// last one.
func (r *Reconciler) restoreAt(ctx context.Context, n *v1alpha1.PyrsiaNode, in desired.Inputs, at desired.Place) (done bool, err error) {
	live, err := r.applyDaemonSet(ctx, n, desired.CleanupDaemonSet(n, in, at))
	left := at.Nodes
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) { // nothing can be made there any more
		r.tellLeft(n, "the namespace goes before the PyrsiaNode")
		return true, nil
	}
	if message := cleanupRefused(n, err); message != "" {
		if r.Now().Sub(n.DeletionTimestamp.Time) > refusedLimit {
			r.tellLeft(n, "the clean-up was refused for "+refusedLimit.String())
			return true, nil
		}
		raiseNotRestored(n, v1alpha1.ReasonCleanupRefused, fmt.Sprintf(
			"%s; %s after the deletion the PyrsiaNode goes without", status.Bounded(message, status.MaxMessage*3/4), refusedLimit))
		return false, nil
	}
	if err != nil || live == nil {
		return false, err
	}
	since := live.CreationTimestamp.Time
	if n.DeletionTimestamp.After(since) { // it existed before, for what had been removed from the spec
		since = n.DeletionTimestamp.Time
	}
	waiting := live.Status.NumberReady < live.Status.DesiredNumberScheduled
	if len(at.Nodes) > 0 {
		left, err = r.notRestored(ctx, n, live, at)
		if err != nil {
			return false, err
		}
		waiting = len(left) > 0
	}
	switch {
	case waiting && r.Now().Sub(since) < cleanupLimit:
		return false, nil
	case waiting && len(at.Nodes) > 0:
		r.tellLeft(n, some(left)+" did not answer")
	case waiting:
		r.tellLeft(n, fmt.Sprintf("%d of %d Kubernetes nodes did not answer", live.Status.DesiredNumberScheduled-live.Status.NumberReady, live.Status.DesiredNumberScheduled))
	}
	if err := apply.DeleteOwned(ctx, r.applier, n, new(appsv1.DaemonSet), "DaemonSet", desired.CleanupName(n)); err != nil {
		return false, err
	}
	forget(n, at.Path, at.Nodes)
	return len(n.Status.Containerd) == 0, nil
}

// tellLeft tells what a PyrsiaNode that goes leaves behind, and how to mend it. A
// namespace that goes too takes no event: it is also told of the record in the
// operator's own.
func (r *Reconciler) tellLeft(n *v1alpha1.PyrsiaNode, why string) {
	record := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: r.Hosts.Namespace, Name: HostRecordName}}
	for _, about := range []client.Object{n, record} {
		r.Recorder.Eventf(about, nil, corev1.EventTypeWarning, v1alpha1.ConditionContainerdNotRestored, "Delete",
			"PyrsiaNode %s/%s is gone, and %s: containerd there may still ask this mirror alone. On each of them run 'pyrsia containerd uninstall --all --owner %s', or make a PyrsiaNode of this name again and delete it", n.Namespace, n.Name, why, desired.SetupOwner(n))
	}
}

// stillThere tells whether a pod of the mirror may still set containerd up: not
// one that should have ended a while ago, because its machine is gone.
func (r *Reconciler) stillThere(n *v1alpha1.PyrsiaNode, p corev1.Pod) bool {
	since := n.DeletionTimestamp.Time
	if p.DeletionTimestamp != nil {
		since = p.DeletionTimestamp.Time // which is when its grace period ends
	}
	return r.Now().Sub(since) < podLimit
}
