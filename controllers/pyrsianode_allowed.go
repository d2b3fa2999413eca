package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
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
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch

// verdict is what the rules say to a PyrsiaNode.
type verdict struct {
	refusals []refusal
	goesOn   bool // although rules are broken: it ran before they were
}

func (v verdict) allowed() bool { return len(v.refusals) == 0 || v.goesOn }

// judge finds out whether a PyrsiaNode may reach Kubernetes nodes as it wants
// to, and records those that do: before anything is made for them.
func (r *PyrsiaNodeReconciler) judge(ctx context.Context, n *v1alpha1.PyrsiaNode) (verdict, error) {
	var v verdict
	var err error
	if v.refusals, err = r.refusals(ctx, n); err != nil {
		return v, err
	}
	if len(v.refusals) == 0 && !reachesHosts(n) {
		return v, nil
	}
	was, known, err := r.record.of(ctx, n, r.running)
	if err != nil {
		return v, err
	}
	var keeps []string
	for _, broken := range v.refusals {
		if !known || broken.rule != refusedNamespace && !slices.Contains(was.Keeps, broken.rule) {
			return v, nil
		}
		if broken.rule != refusedNamespace {
			keeps = append(keeps, broken.rule)
		}
	}
	v.goesOn = true
	if known && slices.Equal(keeps, was.Keeps) {
		return v, nil
	}
	return v, r.record.put(ctx, n, keeps) // a rule that is kept again is not broken once more
}

func (r *PyrsiaNodeReconciler) refusals(ctx context.Context, n *v1alpha1.PyrsiaNode) ([]refusal, error) {
	var facts hostFacts
	if reachesHosts(n) {
		var err error
		if facts.namespaceAllowed, err = r.namespaceAllowed(ctx, n.Namespace); err != nil {
			return nil, err
		}
		all := new(v1alpha1.PyrsiaNodeList)
		if err := r.Client.List(ctx, all, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("listing the PyrsiaNodes: %w", err)
		}
		facts.sharedWith = sharedWith(n, all.Items)
	}
	return r.Hosts.refusals(n, facts), nil
}

// namespaceAllowed looks at the namespace itself: what is in it may be its tenant's.
func (r *PyrsiaNodeReconciler) namespaceAllowed(ctx context.Context, name string) (bool, error) {
	if name == r.Hosts.Namespace || slices.Contains(r.Hosts.Namespaces, name) {
		return true, nil
	}
	if len(r.Hosts.Namespaces) > 0 {
		return false, nil
	}
	ns := new(metav1.PartialObjectMetadata)
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, ns); err != nil {
		return false, wrap(client.IgnoreNotFound(err), "reading the labels of namespace %s", name)
	}
	return ns.Labels[labelMirrors] == mirrorsAllowed, nil
}

// running are the PyrsiaNodes that have pods which reach Kubernetes nodes, with
// the rules that they break, when there is no record yet: those of an operator
// that knew no rules.
func (r *PyrsiaNodeReconciler) running(ctx context.Context) (map[types.UID]recorded, error) {
	all := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, all); err != nil {
		return nil, fmt.Errorf("listing the PyrsiaNodes: %w", err)
	}
	out := map[types.UID]recorded{}
	for i := range all.Items {
		n := &all.Items[i]
		var workload client.Object = new(appsv1.StatefulSet)
		if n.Spec.Role == v1alpha1.RoleMirror {
			workload = new(appsv1.DaemonSet)
		}
		err := r.Client.Get(ctx, client.ObjectKeyFromObject(n), workload)
		if apierrors.IsNotFound(err) || err == nil && !metav1.IsControlledBy(workload, n) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking at the pods of PyrsiaNode %s/%s: %w", n.Namespace, n.Name, err)
		}
		broken, err := r.refusals(ctx, n)
		if err != nil {
			return nil, err
		}
		known := recorded{PyrsiaNode: n.Namespace + "/" + n.Name}
		for _, b := range broken {
			if b.rule != refusedNamespace {
				known.Keeps = append(known.Keeps, b.rule)
			}
		}
		if reachesHosts(n) || len(known.Keeps) > 0 {
			out[n.UID] = known
		}
	}
	return out, nil
}

// refuse tells that nothing is made for a PyrsiaNode. What its pods do already,
// they go on with.
func (r *PyrsiaNodeReconciler) refuse(ctx context.Context, n *v1alpha1.PyrsiaNode, v verdict) (next time.Duration, err error) {
	setNotAllowed(n, v)
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionNotAllowed)
	setFailed(n, v1alpha1.ConditionKeysReady, v1alpha1.ConditionNotAllowed, c.Message)
	if slices.ContainsFunc(v.refusals, func(b refusal) bool { return strings.HasPrefix(b.rule, "hostPath of ") }) {
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
	reason, message := "Refused", "nothing is made for this PyrsiaNode: "
	if v.goesOn {
		reason, message = "GoesOn", "this PyrsiaNode goes on as it is, and could not be made again: "
	}
	for i, b := range v.refusals {
		if i > 0 {
			message += "; "
		}
		message += b.why
	}
	setDone(n, v1alpha1.ConditionNotAllowed, reason, message)
}

// nodesOfNamespace are the PyrsiaNodes in a namespace whose label has changed.
func (r *PyrsiaNodeReconciler) nodesOfNamespace(ctx context.Context, ns client.Object) []reconcile.Request {
	list := new(v1alpha1.PyrsiaNodeList)
	if err := r.Client.List(ctx, list, client.InNamespace(ns.GetName())); err != nil {
		return nil // the cache ends
	}
	return requests(list.Items)
}

var mirrorsLabelChanged = predicate.Funcs{
	DeleteFunc: func(event.DeleteEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetLabels()[labelMirrors] != e.ObjectNew.GetLabels()[labelMirrors]
	},
}
