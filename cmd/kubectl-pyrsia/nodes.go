package main

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// find finds the PyrsiaNode to ask: the one that was named, else a publisher,
// because it has all of the ledger, else any.
func (c *cluster) find(ctx context.Context) (*v1alpha1.PyrsiaNode, error) {
	if c.node != "" {
		n := new(v1alpha1.PyrsiaNode)
		if err := c.client.Get(ctx, kube.ObjectKey{Namespace: c.namespace, Name: c.node}, n); err != nil {
			return nil, fmt.Errorf("reading the PyrsiaNode: %w", err)
		}
		return n, nil
	}
	var list v1alpha1.PyrsiaNodeList
	if err := c.client.List(ctx, &list, kube.InNamespace(c.namespace)); err != nil {
		return nil, fmt.Errorf("listing the PyrsiaNodes: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("there is no PyrsiaNode in namespace %s: give another by -n", c.namespace)
	}
	if i := slices.IndexFunc(list.Items, func(n v1alpha1.PyrsiaNode) bool { return n.Spec.Role == v1alpha1.RolePublisher }); i >= 0 {
		return &list.Items[i], nil
	}
	return &list.Items[0], nil
}

// pod is a ready pod of the PyrsiaNode.
func (c *cluster) pod(ctx context.Context, n *v1alpha1.PyrsiaNode) (string, error) {
	component := "mirror"
	if n.Spec.Role == v1alpha1.RolePublisher {
		component = "publisher"
	}
	var pods corev1.PodList
	err := c.client.List(ctx, &pods, kube.InNamespace(n.Namespace), kube.MatchingLabels{
		"app.kubernetes.io/name": "pyrsia", "app.kubernetes.io/instance": n.Name, "app.kubernetes.io/component": component,
	})
	if err != nil {
		return "", fmt.Errorf("listing the pods of %s: %w", n.Name, err)
	}
	for _, p := range pods.Items {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		// A mirror's pod waits for containerd, and its node serves meanwhile.
		serves := slices.ContainsFunc(p.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == "node" && s.Ready })
		if p.DeletionTimestamp == nil && (ready || serves) {
			return p.Name, nil
		}
	}
	return "", fmt.Errorf("none of the %d pods of PyrsiaNode %s is ready: see 'kubectl -n %s describe pn %[2]s'", len(pods.Items), n.Name, n.Namespace)
}
