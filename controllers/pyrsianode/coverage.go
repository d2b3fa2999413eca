package pyrsianode

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch

const (
	// coverWait is how long a pod may take to be placed on a Kubernetes node before
	// that counts as not covered.
	coverWait = 2 * time.Minute
	// maxNodesNamed bounds the Kubernetes nodes that a condition names.
	maxNodesNamed = 10
)

// seesNodes tells whether the operator may read Kubernetes nodes: they belong to no
// namespace, and rights in named namespaces do not reach them.
func (r *Reconciler) seesNodes() bool { return len(r.Hosts.Namespaces) == 0 }

// coverNodes counts the Kubernetes nodes that a mirror is for, and names those
// without a pod of it: images that are pulled there are not checked against the
// ledger.
func (r *Reconciler) coverNodes(ctx context.Context, in *work) (time.Duration, error) {
	n := in.PyrsiaNode
	if n.Spec.Role != v1alpha1.RoleMirror || n.Status.Nodes == nil {
		return 0, nil
	}
	if !r.seesNodes() {
		status.SetWaiting(n, v1alpha1.ConditionNodesCovered, v1alpha1.ReasonNotCounted, "an operator of named namespaces may not read Kubernetes nodes: compare 'kubectl get nodes' with the mirror's pods")
		return 0, nil
	}
	nodes := new(corev1.NodeList)
	if err := r.Client.List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return 0, objects.Wrap(err, "listing the Kubernetes nodes")
	}
	pods, err := r.Nodes.Pods(ctx, n)
	if err != nil {
		return 0, err
	}
	refused, again, err := r.removeTaints(ctx, n, nodes.Items)
	if err != nil {
		return 0, err
	}
	found := coverageOf(n, in.EveryNode, nodes.Items, pods)
	found.refused = refused
	n.Status.Nodes.Total, n.Status.Nodes.Covered = found.total, found.total-int32(len(found.without))
	judgeCoverage(n, found, r.Now())
	return again, nil // pods are waited for by pace
}

// coverage is where a mirror stands of where it should.
type coverage struct {
	total   int32
	without map[string]string // by the node, what keeps the mirror away; empty if it may just take time
	tainted bool              // some of them by taints
	full    bool              // some of them have no room for its pod
	outside []string          // Linux nodes that the spec does not choose
	refused string            // a node from which the operator may not take the start-up taint
}

// coverageOf looks at the Kubernetes nodes. A mirror of v0.1.0 is for the same ones
// as any other.
func coverageOf(n *v1alpha1.PyrsiaNode, everyNode bool, nodes []corev1.Node, pods []corev1.Pod) coverage {
	placed, waits := map[string]bool{}, map[string]bool{}
	for _, p := range pods {
		placed[p.Spec.NodeName] = true
		if p.Spec.NodeName == "" && cannotBePlaced(p) {
			waits[objects.NodeOf(p)] = true
		}
	}
	should, does := desired.SchedulingOf(n, true), desired.SchedulingOf(n, everyNode)
	every := desired.SchedulingOf(&v1alpha1.PyrsiaNode{Spec: v1alpha1.PyrsiaNodeSpec{Role: v1alpha1.RoleMirror}}, true)
	out := coverage{without: map[string]string{}}
	for i := range nodes {
		node := &nodes[i]
		if !should.Chooses(node) {
			if every.Chooses(node) {
				out.outside = append(out.outside, node.Name)
			}
			continue
		}
		out.total++
		if placed[node.Name] {
			continue
		}
		switch taint := does.Untolerated(node); {
		case taint != nil:
			out.tainted, out.without[node.Name] = true, "taint "+taint.ToString()
		case waits[node.Name]:
			out.full, out.without[node.Name] = true, "no room for its pod"
		default:
			out.without[node.Name] = ""
		}
	}
	slices.Sort(out.outside)
	return out
}

func cannotBePlaced(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse
	})
}

// judgeCoverage sets NodesCovered: Unknown while a pod may just take its time.
func judgeCoverage(n *v1alpha1.PyrsiaNode, found coverage, now time.Time) {
	const condition = v1alpha1.ConditionNodesCovered
	if found.refused != "" {
		status.SetFailed(n, condition, v1alpha1.ReasonTaintNotRemoved, fmt.Sprintf(
			"the operator may not take the taint %s from the Kubernetes node %s: set the chart's value startupTaint.enabled, or add the component config/startup-taint", desired.TaintNotProven, found.refused))
		return
	}
	if len(found.without) == 0 {
		message := fmt.Sprintf("a pod of the mirror is on each of %d Kubernetes nodes", found.total)
		if len(found.outside) > 0 {
			message += fmt.Sprintf("; %d more are not chosen by spec.nodeSelector and spec.affinity: %s", len(found.outside), namesOf(found.outside))
		}
		status.SetDone(n, condition, v1alpha1.ReasonCovered, message)
		return
	}
	names := slices.Sorted(maps.Keys(found.without))
	was := meta.FindStatusCondition(n.Status.Conditions, condition)
	late := was != nil && (was.Status == metav1.ConditionFalse || was.Status == metav1.ConditionUnknown && now.Sub(was.LastTransitionTime.Time) > coverWait)
	if !found.tainted && !found.full && !late {
		status.SetWaiting(n, condition, v1alpha1.ReasonRollout, "waiting for the mirror's pod on "+namesOf(names))
		return
	}
	for i, name := range names {
		if why := found.without[name]; why != "" {
			names[i] += " (" + status.Bounded(why, 100) + ")"
		}
	}
	var mend []string
	if found.tainted {
		mend = append(mend, fmt.Sprintf(`have it tolerate their taints by 'kubectl -n %s patch pyrsianode %s --type merge -p %s'`, n.Namespace, n.Name, `'{"spec":{"tolerations":[{"operator":"Exists"}]}}'`))
	}
	if found.full {
		mend = append(mend, "see 'kubectl describe pod' for what its pod lacks"+priorityHint(n))
	}
	if len(mend) == 0 {
		mend = append(mend, fmt.Sprintf("see 'kubectl -n %s describe daemonset %s' for what keeps its pods away", n.Namespace, n.Name))
	}
	status.SetFailed(n, condition, v1alpha1.ReasonNodesNotCovered, fmt.Sprintf("%d of %d Kubernetes nodes have no mirror, and pull what nobody has vouched for: %s; they are %s",
		len(names), found.total, strings.Join(mend, "; "), namesOf(names)))
}

// namesOf are some Kubernetes nodes, and how many more there are.
func namesOf(nodes []string) string { return firstOf(nodes, maxNodesNamed) }

// firstOf names the first few, and counts the rest.
func firstOf(names []string, few int) string {
	out := strings.Join(names[:min(len(names), few)], ", ")
	if more := len(names) - few; more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	return out
}

// priorityHint is for pods that found no room, or may lose theirs.
func priorityHint(n *v1alpha1.PyrsiaNode) string {
	if n.Spec.PriorityClassName != "" {
		return ""
	}
	return "; any pod with a priority takes its place: set spec.priorityClassName, such as system-node-critical"
}

// allMirrors are all mirrors: each may be for a Kubernetes node that has changed.
func (r *Reconciler) allMirrors(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	list := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the mirrors")
		return nil
	}
	for i := range list.Items {
		if list.Items[i].Spec.Role == v1alpha1.RoleMirror {
			out = append(out, objects.Request(&list.Items[i]))
		}
	}
	return out
}

// placesChanged passes Kubernetes nodes that come, go, or are for other pods than
// before; their kubelets write to them all the time.
var placesChanged = objects.Changed(func(was, is *corev1.Node) bool {
	return !maps.Equal(was.Labels, is.Labels) || !equality.Semantic.DeepEqual(was.Spec.Taints, is.Spec.Taints) ||
		was.Status.NodeInfo.ContainerRuntimeVersion != is.Status.NodeInfo.ContainerRuntimeVersion
})
