package pyrsianode

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// Writing containerd's configuration does not prove that containerd reads it. So
// the last container of a mirror's pod, which does nothing, has an image that
// containerd can get only from this mirror: the canary. The kubelet pulls it after
// the set-up, and again each time that it starts the container; it has to start it
// again when the frontend at the mirror's port says that containerd has not asked
// since containerd itself has started, because then it may have other settings.
//
// A pod whose canary cannot be pulled is not ready, but its mirror is: it counts as
// ready, and does not hold up a roll-out.

// proofState is how far the proof is that containerd of a Kubernetes node asks the mirror.
type proofState int

const (
	proofAwaited   proofState = iota // the pod is new, its turn to pull has not come, or it backs off
	proofGiven                       // containerd asks this mirror
	proofFailed                      // containerd asks another place
	proofRewritten                   // somebody has given the pod another image
)

// proofOf reads a pod's proof from its status.
func proofOf(n *v1alpha1.PyrsiaNode, p corev1.Pod) proofState {
	i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == objects.ContainerCanary })
	if i < 0 {
		return proofAwaited // of an earlier template
	}
	if !strings.HasPrefix(p.Spec.Containers[i].Image, canary.Registry(string(n.UID))+"/") {
		return proofRewritten
	}
	s := objects.StatusOf(p.Status.ContainerStatuses, objects.ContainerCanary)
	switch {
	case s.Ready:
		return proofGiven
	case s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "Image"): // ErrImagePull and ImagePullBackOff take turns
		return proofFailed
	}
	return proofAwaited
}

// prove tells whether containerd asks the mirror on each Kubernetes node.
func (r *Reconciler) prove(_ context.Context, in *work) (time.Duration, error) {
	n := in.PyrsiaNode
	switch {
	case !desired.ManagesContainerd(n):
		meta.RemoveStatusCondition(n.Conditions(), v1alpha1.ConditionContainerdUsesMirror)
	case n.Status.Nodes != nil && in.frontends != nil:
		judgeProof(n, in.Pods, in.frontends.Status)
	case meta.FindStatusCondition(*n.Conditions(), v1alpha1.ConditionContainerdUsesMirror) == nil:
		status.SetWaiting(n, v1alpha1.ConditionContainerdUsesMirror, v1alpha1.ReasonRollout, "waiting for the pods to be started")
	}
	return 0, nil // what was proven stays so until there is news
}

// judgeProof sets ContainerdUsesMirror, and counts: False where containerd asks
// another place, Unknown while that is not known of all.
func judgeProof(n *v1alpha1.PyrsiaNode, pods []corev1.Pod, frontends appsv1.DaemonSetStatus) {
	const condition = v1alpha1.ConditionContainerdUsesMirror
	on := map[proofState][]string{}
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			state := proofOf(n, p)
			on[state] = append(on[state], objects.NodeOf(p))
		}
	}
	for _, names := range on {
		slices.Sort(names)
	}
	counts := n.Status.Nodes
	counts.Proven = int32(len(on[proofGiven]))
	path := desired.MirrorSpec(n).ContainerdConfigPath
	switch {
	case len(on[proofRewritten]) > 0:
		status.SetFailed(n, condition, v1alpha1.ReasonCanaryRewritten, fmt.Sprintf(
			"an admission webhook has given the pods another image than %s, so nothing can be proven by it: have the webhook leave images of the domain canary.pyrsia.invalid alone. On %s", canary.Registry(string(n.UID)), namesOf(on[proofRewritten])))
	case len(on[proofFailed]) > 0 && frontends.UpdatedNumberScheduled < frontends.DesiredNumberScheduled:
		status.SetWaiting(n, condition, v1alpha1.ReasonRollout, "waiting for the mirror's frontends to be replaced: those of an earlier version do not answer for the canary")
	case len(on[proofFailed]) > 0:
		status.SetFailed(n, condition, v1alpha1.ReasonNotProven, fmt.Sprintf(
			"containerd is set up but does not pull through this mirror: have config_path = %q in its configuration, as one folder and no list, and restart it; 'pyrsia containerd status' on the machine says what it reads. The proof comes by itself within 5 minutes after that. On %s", path, namesOf(on[proofFailed])))
	case counts.Proven >= counts.Desired && counts.Desired > 0:
		status.SetDone(n, condition, v1alpha1.ReasonProven, fmt.Sprintf("containerd pulls through this mirror on %d of %d Kubernetes nodes", counts.Proven, counts.Desired))
	case len(on[proofAwaited]) > 0:
		status.SetWaiting(n, condition, v1alpha1.ReasonProving, fmt.Sprintf("waiting for containerd to pull the image of the container %q through this mirror on %s", objects.ContainerCanary, namesOf(on[proofAwaited])))
	default:
		status.SetWaiting(n, condition, v1alpha1.ReasonProving, fmt.Sprintf("containerd pulls through this mirror on %d of %d Kubernetes nodes", counts.Proven, counts.Desired))
	}
}
