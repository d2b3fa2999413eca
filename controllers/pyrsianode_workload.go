package controllers

import (
	"context"
	"errors"
	"fmt"
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
			n.Spec.Role == v1alpha1.RoleMirror && !isTrue(n, v1alpha1.ConditionNetworkReady) {
			return 0, nil
		}
		counts, err := r.applyWorkload(ctx, n, *in)
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
		n.Status.Nodes = counts
		judgeWorkload(n)
		return 0, nil
	}
}

// judgeWorkload sets WorkloadReady from the counts: Unknown until it was ready
// once, False when it is no longer.
func judgeWorkload(n *v1alpha1.PyrsiaNode) {
	const condition = v1alpha1.ConditionWorkloadReady
	counts := n.Status.Nodes
	was := meta.FindStatusCondition(n.Status.Conditions, condition)
	switch {
	case counts == nil:
		setWaiting(n, condition, "Rollout", "waiting for the pods to be started")
	case counts.Ready >= counts.Desired && counts.Desired > 0:
		setDone(n, condition, "PodsReady", fmt.Sprintf("%d of %d pods are ready", counts.Ready, counts.Desired))
	case counts.Desired == 0:
		setFailed(n, condition, "NoKubernetesNode", "no Kubernetes node matches spec.nodeSelector and spec.tolerations")
	case was == nil || was.Status == metav1.ConditionUnknown:
		setWaiting(n, condition, "Rollout", fmt.Sprintf("%d of %d pods are ready", counts.Ready, counts.Desired))
	default:
		setFailed(n, condition, "PodsNotReady", fmt.Sprintf("%d of %d pods are ready", counts.Ready, counts.Desired))
	}
}

// applyWorkload returns nil counts while the cluster has not yet seen the
// newest workload.
func (r *PyrsiaNodeReconciler) applyWorkload(ctx context.Context, n *v1alpha1.PyrsiaNode, in podInputs) (*v1alpha1.NodeCounts, error) {
	svc := service(n)
	changed, err := outdated(ctx, r.applier, n, new(corev1.Service), "Service", coreac.ExtractService, n.Name, svc)
	if err != nil {
		return nil, err
	}
	if changed {
		if err := r.applier.apply(ctx, svc); err != nil {
			return nil, fmt.Errorf("applying Service %s: %w", n.Name, err)
		}
	}
	if n.Spec.Role == v1alpha1.RolePublisher {
		return r.applyStatefulSet(ctx, n, in)
	}
	return r.applyDaemonSet(ctx, n, daemonSet(n, in))
}

func (r *PyrsiaNodeReconciler) applyStatefulSet(ctx context.Context, n *v1alpha1.PyrsiaNode, in podInputs) (*v1alpha1.NodeCounts, error) {
	live, desired := new(appsv1.StatefulSet), statefulSet(n, in)
	changed, err := outdated(ctx, r.applier, n, live, "StatefulSet", extractStatefulSet, n.Name, desired)
	if err != nil {
		return nil, err
	}
	if changed {
		return nil, wrap(r.applier.apply(ctx, desired), "applying StatefulSet %s", n.Name)
	}
	if live.Status.ObservedGeneration < live.Generation {
		return nil, nil
	}
	return &v1alpha1.NodeCounts{Desired: 1, Ready: live.Status.ReadyReplicas}, nil
}

func (r *PyrsiaNodeReconciler) applyDaemonSet(ctx context.Context, n *v1alpha1.PyrsiaNode, desired *appsac.DaemonSetApplyConfiguration) (*v1alpha1.NodeCounts, error) {
	live := new(appsv1.DaemonSet)
	changed, err := outdated(ctx, r.applier, n, live, "DaemonSet", appsac.ExtractDaemonSet, *desired.Name, desired)
	if err != nil {
		return nil, err
	}
	if changed {
		return nil, wrap(r.applier.apply(ctx, desired), "applying DaemonSet %s", *desired.Name)
	}
	if live.Status.ObservedGeneration < live.Generation {
		return nil, nil
	}
	return &v1alpha1.NodeCounts{Desired: live.Status.DesiredNumberScheduled, Ready: live.Status.NumberReady}, nil
}
