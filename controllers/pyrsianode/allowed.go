package pyrsianode

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch

// verdict is what the rules say to a PyrsiaNode.
type verdict struct {
	refusals []Refusal
	goesOn   bool     // although rules are broken: it ran before they were
	keeps    []string // the rules that it may break
	// host is what it has of the Kubernetes nodes: what its spec asks for if that
	// is allowed, else what it had before.
	host      desired.HostClaim
	former    []int32 // ports that a mirror had before, as long as a pod may have one
	everyNode bool    // recorded.EveryNode
}

func (v verdict) allowed() bool { return len(v.refusals) == 0 || v.goesOn }

// judge finds out whether a PyrsiaNode may reach Kubernetes nodes as it wants
// to, and records what it has of them: before anything is made for it.
func (r *Reconciler) judge(ctx context.Context, n *v1alpha1.PyrsiaNode) (v verdict, err error) {
	for range 2 * nodeclient.NodesAtOnce {
		if v, err = r.judgeOnce(ctx, n); !apierrors.IsConflict(err) {
			break // no other PyrsiaNode was recorded meanwhile
		}
	}
	return v, err
}

func (r *Reconciler) judgeOnce(ctx context.Context, n *v1alpha1.PyrsiaNode) (v verdict, err error) {
	if v.refusals, err = r.refusals(ctx, n, Wants(n, nil)); err != nil {
		return v, err
	}
	if len(v.refusals) == 0 && !reachesHosts(n) && !r.record.knows(n) {
		return v, nil
	}
	seen, err := r.record.view(ctx, n, r.running)
	if err != nil {
		return v, err
	}
	was := seen.was
	claim := Wants(n, was)
	if v.refusals, err = r.refusals(ctx, n, claim); err != nil {
		return v, err
	}
	gone := func(uid types.UID, other recorded) bool { return r.record.gone(ctx, uid, other) }
	v.refusals = slices.Concat(v.refusals, taken(n, was, claim, seen.all, gone), crowded(n, was, seen.all, gone))
	v.host, v.everyNode = was.last(), was.everyNode()
	var keeps []string
	if was != nil {
		v.keeps = was.Keeps
	}
	for _, broken := range v.refusals {
		before := broken.claimed && was != nil && was.Claims == nil // recorded before that was a rule
		if was == nil || broken.Rule != refusedNamespace && !before && !slices.Contains(was.Keeps, broken.Rule) {
			return v, nil
		}
		if broken.Rule != refusedNamespace {
			keeps = append(keeps, broken.Rule)
		}
	}
	v.goesOn, v.host = true, claim
	now := recorded{Keeps: keeps, Claims: was.with(n, claim), EveryNode: v.everyNode}
	v.former = formerPorts(now.Claims)
	if was != nil && was.Claims != nil && slices.Equal(keeps, was.Keeps) && slices.Equal(now.Claims, was.Claims) {
		return v, nil
	}
	return v, r.record.put(ctx, n, seen, now) // a rule that is kept again is not broken once more
}

func (r *Reconciler) refusals(ctx context.Context, n *v1alpha1.PyrsiaNode, claim desired.HostClaim) ([]Refusal, error) {
	facts := HostFacts{Wants: claim}
	if reachesHosts(n) {
		var err error
		if facts.NamespaceAllowed, err = r.namespaceAllowed(ctx, n.Namespace); err != nil {
			return nil, err
		}
	}
	return r.Hosts.Refusals(n, facts), nil
}

// NamespaceAllowed looks at the namespace itself: what is in it may be its tenant's.
func (r *Reconciler) namespaceAllowed(ctx context.Context, name string) (bool, error) {
	if name == r.Hosts.Namespace || slices.Contains(r.Hosts.Namespaces, name) {
		return true, nil
	}
	if len(r.Hosts.Namespaces) > 0 {
		return false, nil
	}
	ns := new(metav1.PartialObjectMetadata)
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, ns); err != nil {
		return false, objects.Wrap(client.IgnoreNotFound(err), "reading the labels of namespace %s", name)
	}
	return ns.Labels[objects.LabelMirrors] == objects.MirrorsAllowed, nil
}

// running are the PyrsiaNodes that have pods which reach Kubernetes nodes, with
// what they have there and the rules that they break, when there is no record
// yet: those of an operator without rules. What two of them have belongs to the
// older one.
func (r *Reconciler) running(ctx context.Context) (map[types.UID]recorded, error) {
	all := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, all); err != nil {
		return nil, fmt.Errorf("listing the PyrsiaNodes: %w", err)
	}
	slices.SortFunc(all.Items, func(a, b v1alpha1.PyrsiaNode) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	out := map[types.UID]recorded{}
	for i := range all.Items {
		n := &all.Items[i]
		claim, mirrors, runs, err := r.has(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("looking at the pods of PyrsiaNode %s/%s: %w", n.Namespace, n.Name, err)
		}
		if !runs {
			continue
		}
		broken, err := r.refusals(ctx, n, claim)
		if err != nil {
			return nil, err
		}
		broken = append(broken, taken(n, nil, claim, out, func(types.UID, recorded) bool { return false })...)
		known := recorded{PyrsiaNode: n.Namespace + "/" + n.Name, Claims: []desired.HostClaim{claim}, EveryNode: madeForEveryNode(n, mirrors)}
		for _, b := range broken {
			if b.Rule != refusedNamespace {
				known.Keeps = append(known.Keeps, b.Rule)
			}
		}
		if reachesHosts(n) || len(known.Keeps) > 0 {
			out[n.UID] = known
		}
	}
	return out, nil
}

// has tells whether a PyrsiaNode has pods, and what these have of the Kubernetes
// nodes: where a mirror's data is, only its pods know. mirrors are those of a mirror.
func (r *Reconciler) has(ctx context.Context, n *v1alpha1.PyrsiaNode) (claim desired.HostClaim, mirrors *appsv1.DaemonSet, runs bool, err error) {
	claim = Wants(n, nil)
	mirrors = new(appsv1.DaemonSet)
	var workload client.Object = new(appsv1.StatefulSet)
	if n.Spec.Role == v1alpha1.RoleMirror {
		workload = mirrors
	}
	err = r.applier.Live.Get(ctx, client.ObjectKeyFromObject(n), workload)
	if apierrors.IsNotFound(err) || err == nil && !metav1.IsControlledBy(workload, n) {
		return claim, mirrors, false, nil
	}
	for _, v := range mirrors.Spec.Template.Spec.Volumes {
		if v.Name == "data" && v.HostPath != nil {
			claim.Folder = v.HostPath.Path
		}
	}
	return claim, mirrors, err == nil, err
}

// refuse tells that nothing is made for a PyrsiaNode. What its pods do already,
// they go on with.
func (r *Reconciler) refuse(ctx context.Context, n *v1alpha1.PyrsiaNode, v verdict) (next time.Duration, err error) {
	setNotAllowed(n, v)
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNotAllowed)
	status.SetFailed(n, v1alpha1.ConditionKeysReady, v1alpha1.ConditionNotAllowed, c.Message)
	if slices.ContainsFunc(v.refusals, func(b Refusal) bool { return b.claimed }) {
		return time.Minute, nil // nothing tells when the other one is gone
	}
	return 0, reconcile.TerminalError(fmt.Errorf("%s", c.Message))
}

// setNotAllowed keeps the condition of a PyrsiaNode that breaks rules.
func setNotAllowed(n *v1alpha1.PyrsiaNode, v verdict) {
	if len(v.refusals) == 0 {
		meta.RemoveStatusCondition(&n.Status.Conditions, v1alpha1.ConditionNotAllowed)
		return
	}
	reason, message := v1alpha1.ReasonRefused, "nothing is made for this PyrsiaNode: "
	if v.goesOn {
		reason, message = v1alpha1.ReasonGoesOn, "this PyrsiaNode goes on as it is, and could not be made again: "
	}
	for i, b := range v.refusals {
		if i > 0 {
			message += "; "
		}
		message += b.why
	}
	status.SetDone(n, v1alpha1.ConditionNotAllowed, reason, message)
}

// nodesOfNamespace are the PyrsiaNodes in a namespace whose label has changed.
func (r *Reconciler) nodesOfNamespace(ctx context.Context, ns client.Object) []reconcile.Request {
	return objects.Find(ctx, r.Client, new(v1alpha1.PyrsiaNodeList), client.InNamespace(ns.GetName()))
}

var mirrorsLabelChanged = predicate.Funcs{
	DeleteFunc: func(event.DeleteEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetLabels()[objects.LabelMirrors] != e.ObjectNew.GetLabels()[objects.LabelMirrors]
	},
}
