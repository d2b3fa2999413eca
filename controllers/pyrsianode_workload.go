package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// workload applies the Service and the pods of the node, and counts the pods.
func (r *PyrsiaNodeReconciler) workload(in *podInputs) step[*v1alpha1.PyrsiaNode] {
	return func(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
		if !isTrue(n, v1alpha1.ConditionKeysReady) ||
			n.Spec.Role == v1alpha1.RoleMirror && in.ledgerKey == "" {
			return 0, nil
		}
		if image, registry := cutsItselfOff(n, *in); registry != "" {
			message := fmt.Sprintf("the mirror's own image %s comes from %s, which containerd: Strict would let no Kubernetes node reach without it: take %[2]s out of spec.mirror.registries, use containerd: Fallback, or an image of another registry (spec.image, and the operator's own by --node-image)", image, registry)
			setFailed(n, v1alpha1.ConditionWorkloadReady, "ImageBehindMirror", message)
			return 0, reconcile.TerminalError(fmt.Errorf("%s", message))
		}
		counts, err := r.applyWorkload(ctx, n, in)
		if foreign, ok := errors.AsType[*foreignObjectError](err); ok {
			setFailed(n, v1alpha1.ConditionWorkloadReady, "NameConflict", foreign.Error())
			return time.Minute, nil
		}
		if err != nil {
			setRefused(n, v1alpha1.ConditionWorkloadReady, "NotApplied", "the API server refuses the workload: "+err.Error())
			if apierrors.IsInvalid(err) {
				return 0, reconcile.TerminalError(err) // the same again until somebody changes it
			}
			return 0, err
		}
		pods, err := r.Nodes.pods(ctx, n)
		if err != nil {
			return 0, err
		}
		if n.Status.Nodes = counts; counts != nil {
			counts.Configured = configured(pods)
		}
		recordSetup(n, pods)
		judgeWorkload(n, pods)
		return 0, nil
	}
}

// judgeWorkload sets WorkloadReady from the counts: Unknown until it was ready
// once, False when it is no longer, or when containerd cannot be set up.
func judgeWorkload(n *v1alpha1.PyrsiaNode, pods []corev1.Pod) {
	const condition = v1alpha1.ConditionWorkloadReady
	trouble := trouble(pods)
	refused, message := setUpRefusal(pods)
	counts := n.Status.Nodes
	was := meta.FindStatusCondition(n.Status.Conditions, condition)
	switch {
	case counts == nil:
		setWaiting(n, condition, "Rollout", "waiting for the pods to be started")
	case counts.Ready >= counts.Desired && counts.Desired > 0:
		setDone(n, condition, "PodsReady", fmt.Sprintf("%d of %d pods are ready", counts.Ready, counts.Desired))
	case refused != "":
		setFailed(n, condition, refused, message)
	case counts.Desired == 0:
		setFailed(n, condition, "NoKubernetesNode", "no Kubernetes node matches spec.nodeSelector and spec.tolerations")
	case was == nil || was.Status == metav1.ConditionUnknown:
		setWaiting(n, condition, "Rollout", fmt.Sprintf("%d of %d pods are ready%s", counts.Ready, counts.Desired, trouble))
	default:
		setFailed(n, condition, "PodsNotReady", fmt.Sprintf("%d of %d pods are ready%s", counts.Ready, counts.Desired, trouble))
	}
}

// configured counts the pods on whose Kubernetes nodes containerd is set up.
func configured(pods []corev1.Pod) (n int32) {
	for _, p := range pods {
		if slices.ContainsFunc(p.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.Name == containerSetUp && s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		}) {
			n++
		}
	}
	return n
}

// trouble says what keeps the first pod that has trouble from being ready, and
// what to do; empty if none has, or only needs time.
func trouble(pods []corev1.Pod) string {
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return fmt.Sprintf("; pod %s cannot be placed: see 'kubectl describe pod %[1]s'", p.Name)
			}
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			waiting := ""
			if s.State.Waiting != nil {
				waiting = s.State.Waiting.Reason
			}
			switch {
			case strings.Contains(waiting, "Image"): // ErrImagePull and ImagePullBackOff take turns
				return fmt.Sprintf("; the image of pod %s cannot be pulled: see 'kubectl describe pod %[1]s'", p.Name)
			case strings.HasSuffix(waiting, "Error"):
				return fmt.Sprintf("; container %s of pod %s cannot be started: see 'kubectl describe pod %[2]s'", s.Name, p.Name)
			case s.RestartCount > 1 && !s.Ready:
				return fmt.Sprintf("; container %s of pod %s keeps ending: see 'kubectl logs %[2]s -c %[1]s --previous'", s.Name, p.Name)
			}
		}
	}
	return ""
}

// applyWorkload returns nil counts while the cluster has not yet seen the
// newest workload.
func (r *PyrsiaNodeReconciler) applyWorkload(ctx context.Context, n *v1alpha1.PyrsiaNode, in *podInputs) (*v1alpha1.NodeCounts, error) {
	if _, _, err := r.applyService(ctx, n, service(n)); err != nil {
		return nil, err
	}
	if n.Spec.Role == v1alpha1.RolePublisher {
		return r.applyStatefulSet(ctx, n, *in)
	}
	mirrors, err := r.applyDaemonSet(ctx, n, daemonSet(n, *in))
	if err != nil {
		return nil, err
	}
	in.mirrors = mirrors
	frontends, err := r.applyDaemonSet(ctx, n, frontendDaemonSet(n, *in))
	in.frontends = frontends
	if err != nil || mirrors == nil || frontends == nil {
		return nil, err
	}
	return &v1alpha1.NodeCounts{
		Desired: mirrors.Status.DesiredNumberScheduled,
		Ready:   min(mirrors.Status.NumberReady, frontends.Status.NumberReady),
	}, nil
}

// applyService tells whether the Service had to be changed; live is it before that.
func (r *PyrsiaNodeReconciler) applyService(ctx context.Context, n *v1alpha1.PyrsiaNode, desired *coreac.ServiceApplyConfiguration) (live *corev1.Service, changed bool, err error) {
	live = new(corev1.Service)
	changed, err = outdated(ctx, r.applier, n, live, "Service", coreac.ExtractService, *desired.Name, desired)
	if err == nil && changed {
		err = wrap(r.applier.apply(ctx, live, desired), "applying Service %s", *desired.Name)
	}
	return live, changed, err
}

func (r *PyrsiaNodeReconciler) applyStatefulSet(ctx context.Context, n *v1alpha1.PyrsiaNode, in podInputs) (*v1alpha1.NodeCounts, error) {
	live, desired := new(appsv1.StatefulSet), statefulSet(n, in)
	changed, err := outdated(ctx, r.applier, n, live, "StatefulSet", extractStatefulSet, n.Name, desired)
	if err != nil {
		return nil, err
	}
	if changed {
		return nil, wrap(r.applier.apply(ctx, live, desired), "applying StatefulSet %s", n.Name)
	}
	if live.Status.ObservedGeneration < live.Generation {
		return nil, nil
	}
	return &v1alpha1.NodeCounts{Desired: 1, Ready: live.Status.ReadyReplicas}, nil
}

// applyDaemonSet returns nil while the cluster has not yet seen the newest one.
func (r *PyrsiaNodeReconciler) applyDaemonSet(ctx context.Context, n *v1alpha1.PyrsiaNode, desired *appsac.DaemonSetApplyConfiguration) (*appsv1.DaemonSet, error) {
	live := new(appsv1.DaemonSet)
	changed, err := outdated(ctx, r.applier, n, live, "DaemonSet", appsac.ExtractDaemonSet, *desired.Name, desired)
	if err != nil {
		return nil, err
	}
	if changed {
		return nil, wrap(r.applier.apply(ctx, live, desired), "applying DaemonSet %s", *desired.Name)
	}
	if live.Status.ObservedGeneration < live.Generation {
		return nil, nil
	}
	return live, nil
}
