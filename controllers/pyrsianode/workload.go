package pyrsianode

import (
	"cmp"
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
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// workload applies the Service and the pods of the node, and counts the pods.
func (r *Reconciler) workload(ctx context.Context, in *work) (time.Duration, error) {
	n := in.PyrsiaNode
	if !status.IsTrue(n, v1alpha1.ConditionKeysReady) ||
		n.Spec.Role == v1alpha1.RoleMirror && in.LedgerKey == "" {
		return 0, nil
	}
	if image, registry := cutsItselfOff(n, in.Inputs); registry != "" {
		message := fmt.Sprintf("the mirror's own image %s comes from %s, which containerd: Strict would let no Kubernetes node reach without it: take %[2]s out of spec.mirror.registries, use containerd: Fallback, or an image of another registry (spec.image, and the operator's own by --node-image)", image, registry)
		status.SetFailed(n, v1alpha1.ConditionWorkloadReady, v1alpha1.ReasonImageBehindMirror, message)
		return 0, reconcile.TerminalError(fmt.Errorf("%s", message))
	}
	pods, err := r.Nodes.Pods(ctx, n)
	if err != nil {
		return 0, err
	}
	in.Pods = pods
	counts, err := r.applyWorkload(ctx, n, in)
	if foreign, ok := errors.AsType[*apply.ForeignError](err); ok {
		status.SetFailed(n, v1alpha1.ConditionWorkloadReady, v1alpha1.ReasonNameConflict, foreign.Error())
		return time.Minute, nil
	}
	if err != nil {
		status.SetRefused(n, v1alpha1.ConditionWorkloadReady, v1alpha1.ReasonNotApplied, "the API server refuses the workload: "+err.Error())
		if apierrors.IsInvalid(err) {
			return 0, reconcile.TerminalError(err) // the same again until somebody changes it
		}
		return 0, err
	}
	if n.Status.Nodes = counts; counts != nil {
		counts.Configured = objects.CountIf(pods, objects.SetUp)
	}
	recordSetup(n, pods)
	var fronts []corev1.Pod
	if n.Spec.Role == v1alpha1.RoleMirror {
		if fronts, err = r.Nodes.PodsOf(ctx, n, "frontend"); err != nil {
			return 0, err
		}
	}
	judgeWorkload(n, pods, fronts)
	return 0, r.tellFormer(ctx, n, in.Former, pods, fronts)
}

// judgeWorkload sets WorkloadReady from the counts: Unknown until it was ready
// once, False when it is not any more, or when containerd cannot be set up.
func judgeWorkload(n *v1alpha1.PyrsiaNode, pods, fronts []corev1.Pod) {
	const condition = v1alpha1.ConditionWorkloadReady
	counts := n.Status.Nodes
	trouble := trouble(n, slices.Concat(pods, fronts))
	if trouble == "" && counts != nil {
		trouble = unmade(n, len(pods), len(fronts))
	}
	refused, message := setUpRefusal(slices.Concat(pods, fronts))
	was := meta.FindStatusCondition(n.Status.Conditions, condition)
	switch {
	case counts == nil:
		status.SetWaiting(n, condition, v1alpha1.ReasonRollout, "waiting for the pods to be started")
	case counts.Ready >= counts.Desired && counts.Desired > 0:
		message := fmt.Sprintf("%d of %d pods are ready", counts.Ready, counts.Desired)
		if n.Spec.Role == v1alpha1.RoleMirror && desired.MirrorSpec(n).Containerd == v1alpha1.ContainerdStrict {
			message += priorityHint(n)
		}
		status.SetDone(n, condition, v1alpha1.ReasonPodsReady, message)
	case refused != "":
		status.SetFailed(n, condition, refused, message)
	case counts.Desired == 0:
		status.SetFailed(n, condition, v1alpha1.ReasonNoKubernetesNode, "no Kubernetes node matches spec.nodeSelector and spec.tolerations")
	case was == nil || was.Status == metav1.ConditionUnknown:
		status.SetWaiting(n, condition, v1alpha1.ReasonRollout, fmt.Sprintf("%d of %d pods are ready%s", counts.Ready, counts.Desired, trouble))
	default:
		status.SetFailed(n, condition, v1alpha1.ReasonPodsNotReady, fmt.Sprintf("%d of %d pods are ready%s", counts.Ready, counts.Desired, trouble))
	}
}

// trouble says what keeps the first pod that has trouble from being ready, and
// what to do; empty if none has, or only needs time.
func trouble(n *v1alpha1.PyrsiaNode, pods []corev1.Pod) string {
	for _, p := range pods {
		if p.Status.Phase == corev1.PodFailed {
			return fmt.Sprintf("; pod %s was ended (%s): see 'kubectl describe pod %[1]s'%[3]s", p.Name, status.Bounded(cmp.Or(p.Status.Reason, "Failed"), 100), priorityHint(n))
		}
		if cannotBePlaced(p) {
			return fmt.Sprintf("; pod %s cannot be placed: see 'kubectl describe pod %[1]s'%s", p.Name, priorityHint(n))
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if s.Name == objects.ContainerCanary {
				continue // it has a condition of its own
			}
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
				return fmt.Sprintf("; container %s of pod %s keeps ending%s: see 'kubectl logs %[2]s -c %[1]s --previous'", s.Name, p.Name, lastWords(s))
			}
		}
	}
	return ""
}

// lastWords are what a container said when it ended, if it was to say that where it
// is found here.
func lastWords(s corev1.ContainerStatus) string {
	ended := s.State.Terminated
	if ended == nil {
		ended = s.LastTerminationState.Terminated // it waits to be started again, or has been
	}
	if ended == nil {
		return ""
	}
	said := strings.TrimSpace(ended.Message)
	said = said[max(0, strings.LastIndex(said, "pyrsia: ")):] // before it is what it did meanwhile
	if said = strings.TrimPrefix(said, "pyrsia: "); said == "" {
		return ""
	}
	return ": " + status.Bounded(said, status.MaxMessage/2)
}

// unmade says which pods the cluster does not even make: only the events of what
// should make them tell why.
func unmade(n *v1alpha1.PyrsiaNode, pods, fronts int) string {
	kind, name, has := "daemonset", n.Name, pods
	switch {
	case n.Spec.Role == v1alpha1.RolePublisher:
		kind = "statefulset"
	case pods >= int(n.Status.Nodes.Desired):
		name, has = desired.FrontendName(n), fronts
	}
	if has >= int(n.Status.Nodes.Desired) {
		return ""
	}
	return fmt.Sprintf("; the cluster makes %d of %d pods of %s: a quota or the Pod Security level of the namespace may refuse them: see 'kubectl -n %s describe %s %s'",
		has, n.Status.Nodes.Desired, name, n.Namespace, kind, name)
}

// applyWorkload returns nil counts while the cluster has not yet seen the
// newest workload.
func (r *Reconciler) applyWorkload(ctx context.Context, n *v1alpha1.PyrsiaNode, in *work) (*v1alpha1.NodeCounts, error) {
	if _, _, err := r.applyService(ctx, n, desired.Service(n)); err != nil {
		return nil, err
	}
	if n.Spec.Role == v1alpha1.RolePublisher {
		return r.applyStatefulSet(ctx, n, in.Inputs)
	}
	mirrors, err := r.applyDaemonSet(ctx, n, desired.DaemonSet(n, in.Inputs))
	if err != nil {
		return nil, err
	}
	if mirrors != nil {
		// What lacks the proof alone is ready here: the proof has a condition of its own.
		mirrors.Status.NumberReady = min(mirrors.Status.NumberReady+objects.CountIf(in.Pods, objects.LacksProofAlone), mirrors.Status.DesiredNumberScheduled)
	}
	in.mirrors = mirrors
	frontends, err := r.applyDaemonSet(ctx, n, desired.FrontendDaemonSet(n, in.Inputs))
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
func (r *Reconciler) applyService(ctx context.Context, n *v1alpha1.PyrsiaNode, desired *coreac.ServiceApplyConfiguration) (live *corev1.Service, changed bool, err error) {
	live = new(corev1.Service)
	changed, err = apply.Outdated(ctx, r.applier, n, live, "Service", coreac.ExtractService, *desired.Name, desired)
	if err == nil && changed {
		err = objects.Wrap(r.applier.Apply(ctx, live, desired), "applying Service %s", *desired.Name)
	}
	return live, changed, err
}

func (r *Reconciler) applyStatefulSet(ctx context.Context, n *v1alpha1.PyrsiaNode, in desired.Inputs) (*v1alpha1.NodeCounts, error) {
	live, wanted := new(appsv1.StatefulSet), desired.StatefulSet(n, in)
	blocked, err := r.blocked(ctx, n)
	if err != nil {
		return nil, err
	}
	if blocked {
		wanted.Spec.WithReplicas(0)
	}
	changed, err := apply.Outdated(ctx, r.applier, n, live, "StatefulSet", desired.ExtractStatefulSet, n.Name, wanted)
	if err != nil {
		return nil, err
	}
	if changed {
		return nil, objects.Wrap(r.applier.Apply(ctx, live, wanted), "applying StatefulSet %s", n.Name)
	}
	if live.Status.ObservedGeneration < live.Generation {
		return nil, nil
	}
	return &v1alpha1.NodeCounts{Desired: 1, Ready: live.Status.ReadyReplicas}, nil
}

// blocked tells whether a pod that was never ready keeps the newest template from being used: a
// StatefulSet replaces no such pod (kubernetes.io/docs/concepts/workloads/controllers/statefulset,
// "Forced rollback"). Scaling to zero for a moment deletes it, gracefully. Until it is gone, the
// next call finds it again.
func (r *Reconciler) blocked(ctx context.Context, n *v1alpha1.PyrsiaNode) (bool, error) {
	set := new(appsv1.StatefulSet)
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(n), set); err != nil {
		return false, objects.Wrap(client.IgnoreNotFound(err), "reading StatefulSet %s", n.Name)
	}
	// Its controller has not seen the newest template yet, unless it was told to end the pod.
	if newest := set.Status.ObservedGeneration == set.Generation; set.Status.UpdateRevision == "" || !newest && *set.Spec.Replicas > 0 {
		return false, nil
	}
	pods, err := r.Nodes.Pods(ctx, n)
	return slices.ContainsFunc(pods, func(p corev1.Pod) bool {
		revision := p.Labels[appsv1.ControllerRevisionHashLabelKey]
		return p.DeletionTimestamp == nil && !objects.IsReady(p) && revision != "" && revision != set.Status.UpdateRevision
	}), err
}

// applyDaemonSet returns nil while the cluster has not yet seen the newest one.
func (r *Reconciler) applyDaemonSet(ctx context.Context, n *v1alpha1.PyrsiaNode, desired *appsac.DaemonSetApplyConfiguration) (*appsv1.DaemonSet, error) {
	live := new(appsv1.DaemonSet)
	changed, err := apply.Outdated(ctx, r.applier, n, live, "DaemonSet", appsac.ExtractDaemonSet, *desired.Name, desired)
	if err != nil {
		return nil, err
	}
	if changed {
		paced := onlyPaced(live, desired)
		if err := r.applier.Apply(ctx, live, desired); err != nil || !paced {
			return nil, objects.Wrap(err, "applying DaemonSet %s", *desired.Name)
		}
		return live, nil
	}
	// Where a mirror has counts, nothing but its pace was changed since they were made.
	if live.Status.ObservedGeneration < live.Generation && (live.Name != n.Name || n.Status.Nodes == nil) {
		return nil, nil
	}
	return live, nil
}

// onlyPaced tells whether nothing is to be changed but how fast the pods of a
// DaemonSet are replaced: what the cluster says of them holds.
func onlyPaced(live *appsv1.DaemonSet, desired *appsac.DaemonSetApplyConfiguration) bool {
	owned, err := appsac.ExtractDaemonSet(live, objects.FieldOwner)
	if err != nil || owned.Spec == nil {
		return false
	}
	owned.Spec.UpdateStrategy = desired.Spec.UpdateStrategy
	same, err := apply.EqualJSON(owned, desired)
	return err == nil && same
}
