package pyrsianode

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// While a mirror's port changes, its frontends answer at the one before as well, on
// all Kubernetes nodes: where its pod is not replaced yet, containerd asks there. That
// ends when all pods are replaced but those on machines that do not answer. When such
// a machine comes back, its pods are replaced like any other's.

// deadAfter is how long a Kubernetes node that does not answer is waited for: as long
// as Kubernetes itself leaves pods there that may run elsewhere.
const deadAfter = 5 * time.Minute

// formerPorts are those of a mirror's claims before the last one.
func formerPorts(claims []desired.HostClaim) (ports []int32) {
	for _, c := range claims {
		if last := claims[len(claims)-1].Port; c.Port != 0 && c.Port != last && !slices.Contains(ports, c.Port) {
			ports = append(ports, c.Port)
		}
	}
	return ports
}

// deadNodes are the Kubernetes nodes that are not waited for any more; none for an
// operator that may not look.
func (r *Reconciler) deadNodes(ctx context.Context) (map[string]bool, error) {
	if !r.seesNodes() {
		return nil, nil
	}
	nodes := new(corev1.NodeList)
	if err := r.Client.List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, objects.Wrap(err, "listing the Kubernetes nodes")
	}
	dead := map[string]bool{}
	for _, node := range nodes.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue && r.Now().Sub(c.LastTransitionTime.Time) > deadAfter {
				dead[node.Name] = true
			}
		}
	}
	return dead, nil
}

// endFormerClaims gives up what the spec named before, when no pod has it any more.
func (r *Reconciler) endFormerClaims(ctx context.Context, n *v1alpha1.PyrsiaNode, in *work) error {
	seen, err := r.record.view(ctx, n, r.running)
	if err != nil || seen.was == nil || len(seen.was.Claims) < 2 {
		return err
	}
	dead, err := r.deadNodes(ctx)
	if err != nil {
		return err
	}
	for of, set := range map[string]*appsv1.DaemonSet{objects.Component(n): in.mirrors, "frontend": in.frontends} {
		pods, err := r.Nodes.PodsOf(ctx, n, of)
		if err != nil {
			return err
		}
		if set == nil || !rolledOut(set.Status, pods, dead) {
			return nil
		}
	}
	return r.record.put(ctx, n, seen, recorded{Keeps: seen.was.Keeps, Claims: []desired.HostClaim{seen.was.last()}, EveryNode: seen.was.EveryNode})
}

// rolledOut tells whether all pods of a DaemonSet are of its newest template and the
// previous ones have ended, except on dead Kubernetes nodes.
func rolledOut(set appsv1.DaemonSetStatus, pods []corev1.Pod, dead map[string]bool) bool {
	away, live := map[string]bool{}, 0
	for _, p := range pods {
		if dead[objects.NodeOf(p)] {
			away[objects.NodeOf(p)] = true
			continue
		}
		live++
		if p.DeletionTimestamp != nil {
			return false
		}
	}
	// The counts may include the pods of dead nodes: then the pods of the others decide.
	if len(away) > 0 && slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !away[objects.NodeOf(p)] && !isNewest(p, pods) }) {
		return false
	}
	rest := int(set.DesiredNumberScheduled) - len(away)
	return int(set.UpdatedNumberScheduled) >= rest && int(set.NumberReady) >= rest && live <= rest
}

// isNewest tells whether no pod of the same DaemonSet that was made later has another
// template.
func isNewest(p corev1.Pod, pods []corev1.Pod) bool {
	revision := func(p corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }
	return !slices.ContainsFunc(pods, func(o corev1.Pod) bool {
		return o.CreationTimestamp.After(p.CreationTimestamp.Time) && revision(o) != revision(p)
	})
}

// tellFormer reports at which former ports the frontends answer too, and which
// pods delay the end of that.
func (r *Reconciler) tellFormer(ctx context.Context, n *v1alpha1.PyrsiaNode, former []int32, sets ...[]corev1.Pod) error {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionWorkloadReady)
	if len(former) == 0 || c == nil {
		return nil
	}
	dead, err := r.deadNodes(ctx)
	if err != nil {
		return err
	}
	if on := heldUpBy(dead, sets...); len(on) > 0 {
		var ports []string
		for _, port := range former {
			ports = append(ports, strconv.Itoa(int(port)))
		}
		c.Message += fmt.Sprintf("; port %s is answered too until the pods on %s are replaced and ready, or those machines have not answered for %s", strings.Join(ports, ", "), namesOf(on), deadAfter)
	}
	return nil
}

// heldUpBy are the Kubernetes nodes on which a pod is to be replaced yet, or is not ready.
func heldUpBy(dead map[string]bool, sets ...[]corev1.Pod) (on []string) {
	for _, pods := range sets {
		for _, p := range pods {
			if ready := objects.IsReady(p) || objects.LacksProofAlone(p); !dead[objects.NodeOf(p)] && (p.DeletionTimestamp != nil || !ready || !isNewest(p, pods)) {
				on = append(on, objects.NodeOf(p))
			}
		}
	}
	slices.Sort(on)
	return slices.Compact(on)
}
