package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// That containerd was set up says nothing about whether it reads that. So the last
// container of a mirror's pod, which only has to be there, has an image that
// containerd can get from this mirror alone: the canary. The kubelet pulls it after
// the set-up, and again each time that it starts the container; it has to start it
// again when the frontend at the mirror's port says that containerd has not asked
// since containerd itself has started, for then it may have other settings.
//
// A pod whose canary cannot be pulled is not ready, but its mirror is: it counts as
// ready, and does not hold up a roll-out.

const (
	// containerCanary is the container that runs where containerd asks the mirror.
	containerCanary = "canary"
	// containerKeep writes again what others change of the set-up.
	containerKeep = "keep"
)

// canaryContainer is proven when it is ready.
func canaryContainer(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror) *coreac.ContainerApplyConfiguration {
	// The kubelet asks the frontend at the machine's own address.
	asked := func() *coreac.ProbeApplyConfiguration {
		return coreac.Probe().WithHTTPGet(coreac.HTTPGetAction().WithHost("127.0.0.1").WithPort(intstr.FromInt32(m.Port)).
			WithPath("/.well-known/pyrsia-canary/" + string(n.UID))).WithPeriodSeconds(10).WithTimeoutSeconds(5)
	}
	return coreac.Container().WithName(containerCanary).
		WithImage(canary.Image(string(n.UID))).
		WithImagePullPolicy(corev1.PullAlways).
		WithReadinessProbe(asked().WithFailureThreshold(1)).
		WithLivenessProbe(asked().WithFailureThreshold(2)).
		WithResources(coreac.ResourceRequirements().WithRequests(corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("1m"),
			corev1.ResourceMemory: resource.MustParse("1Mi"),
		})).
		WithSecurityContext(restricted())
}

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
	i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == containerCanary })
	if i < 0 {
		return proofAwaited // of an earlier template
	}
	if !strings.HasPrefix(p.Spec.Containers[i].Image, canary.Registry(string(n.UID))+"/") {
		return proofRewritten
	}
	s := statusOf(p.Status.ContainerStatuses, containerCanary)
	switch {
	case s.Ready:
		return proofGiven
	case s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "Image"): // ErrImagePull and ImagePullBackOff take turns
		return proofFailed
	}
	return proofAwaited
}

// statusOf is the status of a container; an empty one if it has none yet.
func statusOf(all []corev1.ContainerStatus, name string) (s corev1.ContainerStatus) {
	if i := slices.IndexFunc(all, func(s corev1.ContainerStatus) bool { return s.Name == name }); i >= 0 {
		s = all[i]
	}
	return s
}

// lacksProofAlone tells whether a pod is not ready for want of the proof alone: its
// mirror serves, and containerd is set up.
func lacksProofAlone(p corev1.Pod) bool {
	return !isReady(p) && setUp(p) && statusOf(p.Status.InitContainerStatuses, containerNode).Ready &&
		statusOf(p.Status.ContainerStatuses, containerKeep).Ready && !statusOf(p.Status.ContainerStatuses, containerCanary).Ready
}

// holdsUp tells whether a pod would hold up a roll-out for want of the proof: not
// one that only starts, as all do for a moment.
func holdsUp(p corev1.Pod) bool {
	waiting := statusOf(p.Status.ContainerStatuses, containerCanary).State.Waiting
	return lacksProofAlone(p) && waiting != nil && (strings.Contains(waiting.Reason, "Image") || strings.HasSuffix(waiting.Reason, "BackOff"))
}

// countIf counts the pods for which something holds.
func countIf(pods []corev1.Pod, holds func(corev1.Pod) bool) (count int32) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil && holds(p) {
			count++
		}
	}
	return count
}

// maxUnavailable is how many of a mirror's pods may be not ready at once in a
// roll-out: those that it would wait for in vain come on top of what the spec says.
func (in podInputs) maxUnavailable(wanted intstr.IntOrString) intstr.IntOrString {
	vain := countIf(in.pods, holdsUp)
	if vain == 0 {
		return wanted
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(&wanted, len(in.pods), true)
	if err != nil {
		return wanted // the API server refuses it too
	}
	return intstr.FromInt32(int32(max(most, 1)) + vain)
}

// prove tells whether containerd asks the mirror on each Kubernetes node.
func (r *PyrsiaNodeReconciler) prove(in *nodeWork) step[*v1alpha1.PyrsiaNode] {
	return func(_ context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
		switch {
		case !managesContainerd(n):
			meta.RemoveStatusCondition(n.Conditions(), v1alpha1.ConditionContainerdUsesMirror)
		case n.Status.Nodes != nil && in.frontends != nil:
			judgeProof(n, in.pods, in.frontends.Status)
		case meta.FindStatusCondition(*n.Conditions(), v1alpha1.ConditionContainerdUsesMirror) == nil:
			setWaiting(n, v1alpha1.ConditionContainerdUsesMirror, "Rollout", "waiting for the pods to be started")
		}
		return 0, nil // what was proven stays so until there is news
	}
}

// judgeProof sets ContainerdUsesMirror, and counts: False where containerd asks
// another place, Unknown while that is not known of all.
func judgeProof(n *v1alpha1.PyrsiaNode, pods []corev1.Pod, frontends appsv1.DaemonSetStatus) {
	const condition = v1alpha1.ConditionContainerdUsesMirror
	on := map[proofState][]string{}
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			state := proofOf(n, p)
			on[state] = append(on[state], nodeOf(p))
		}
	}
	for _, names := range on {
		slices.Sort(names)
	}
	counts := n.Status.Nodes
	counts.Proven = int32(len(on[proofGiven]))
	path := mirrorSpec(n).ContainerdConfigPath
	switch {
	case len(on[proofRewritten]) > 0:
		setFailed(n, condition, "CanaryRewritten", fmt.Sprintf(
			"an admission webhook has given the pods another image than %s, so nothing can be proven by it: have the webhook leave images of the domain canary.pyrsia.invalid alone. On %s", canary.Registry(string(n.UID)), namesOf(on[proofRewritten])))
	case len(on[proofFailed]) > 0 && frontends.UpdatedNumberScheduled < frontends.DesiredNumberScheduled:
		setWaiting(n, condition, "Rollout", "waiting for the mirror's frontends to be replaced: those of an earlier version do not answer for the canary")
	case len(on[proofFailed]) > 0:
		setFailed(n, condition, "NotProven", fmt.Sprintf(
			"containerd is set up but does not pull through this mirror: have config_path = %q in its configuration, as one folder and no list, and restart it; 'pyrsia containerd status' on the machine says what it reads. The proof comes by itself within 5 minutes after that. On %s", path, namesOf(on[proofFailed])))
	case counts.Proven >= counts.Desired && counts.Desired > 0:
		setDone(n, condition, "Proven", fmt.Sprintf("containerd pulls through this mirror on %d of %d Kubernetes nodes", counts.Proven, counts.Desired))
	case len(on[proofAwaited]) > 0:
		setWaiting(n, condition, "Proving", fmt.Sprintf("waiting for containerd to pull the image of the container %q through this mirror on %s", containerCanary, namesOf(on[proofAwaited])))
	default:
		setWaiting(n, condition, "Proving", fmt.Sprintf("containerd pulls through this mirror on %d of %d Kubernetes nodes", counts.Proven, counts.Desired))
	}
}
