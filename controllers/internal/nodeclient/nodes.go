// Package nodeclient talks to the pods of PyrsiaNodes over the control API: it finds the
// pods, holds the keys, bounds the calls, and believes only what a ledger proves.
// It imports the API, status, objects, node/control and node/ledger. All controllers call it.
package nodeclient

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// clientIdle is how long an unused client is kept.
const clientIdle = 10 * time.Minute

// Nodes reaches the pods of PyrsiaNodes over the control API.
type Nodes struct {
	reader client.Reader
	keys   *Keyring
	now    func() time.Time

	mu       sync.Mutex // guards what follows
	clients  map[nodeAddress]*Client
	seeds    *Seeds           // that the clients have their keys of
	visiting map[placeKey]int // the places that are taken
}

type nodeAddress struct {
	uid types.UID // of the PyrsiaNode: decides the pinned key
	ip  string
}

// Client is that of one pod.
type Client struct {
	*control.Client
	used  time.Time
	lines [len(visits)]line // by purpose
}

// NewNodes reads pods from reader and has the nodes' keys from keys.
func NewNodes(reader client.Reader, keys *Keyring, now func() time.Time) *Nodes {
	return &Nodes{reader: reader, keys: keys, now: now, clients: map[nodeAddress]*Client{}, visiting: map[placeKey]int{}}
}

// Client is a client of one pod, pinned to the PyrsiaNode's key.
func (n *Nodes) Client(node *v1alpha1.PyrsiaNode, ip string) (*Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, seeds := n.now(), n.keys.seeds.Load()
	if n.seeds != seeds { // rotated: new requests use the new keys
		for _, c := range n.clients {
			c.Close()
		}
		clear(n.clients)
		n.seeds = seeds
	}
	address := nodeAddress{uid: node.UID, ip: ip}
	if c := n.clients[address]; c != nil {
		c.used = now
		return c, nil
	}
	for a, c := range n.clients {
		if now.Sub(c.used) > clientIdle {
			c.Close()
			delete(n.clients, a)
		}
	}
	made, err := control.NewClient(net.JoinHostPort(ip, strconv.Itoa(control.Port)), seeds.operatorKeys(node))
	if err != nil {
		return nil, err
	}
	c := &Client{Client: made, used: now}
	n.clients[address] = c
	return c, nil
}

// Pods are the pods of a PyrsiaNode, by name.
func (n *Nodes) Pods(ctx context.Context, node *v1alpha1.PyrsiaNode) ([]corev1.Pod, error) {
	return n.PodsOf(ctx, node, objects.Component(node))
}

// PodsOf are those of one component of it.
func (n *Nodes) PodsOf(ctx context.Context, node *v1alpha1.PyrsiaNode, component string) ([]corev1.Pod, error) {
	pods := new(corev1.PodList)
	if err := n.reader.List(ctx, pods, client.InNamespace(node.Namespace), client.MatchingLabels(objects.Labels(node, component))); err != nil {
		return nil, fmt.Errorf("listing the pods of %s: %w", node.Name, err)
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods.Items, nil
}

// ReadyPods are those whose node is ready.
func (n *Nodes) ReadyPods(ctx context.Context, node *v1alpha1.PyrsiaNode) ([]corev1.Pod, error) {
	pods, err := n.Pods(ctx, node)
	return slices.DeleteFunc(pods, func(p corev1.Pod) bool {
		return p.Status.PodIP == "" || p.DeletionTimestamp != nil || !objects.IsReady(p) && !objects.LacksProofAlone(p)
	}), err
}

// AskPublisher asks a publisher. The error is an *unusableError if it cannot be
// asked now, and its *control.Error if it refuses.
func (n *Nodes) AskPublisher(ctx context.Context, namespace, name string, why Purpose, call func(context.Context, *v1alpha1.PyrsiaNode, *control.Client) error) error {
	node, pods, err := n.Usable(ctx, namespace, name, "publisher")
	if err != nil {
		return err
	}
	v, err := n.Visit(node, why)
	if err != nil {
		return err
	}
	defer v.End()
	return v.Ask(ctx, pods[0], func(ctx context.Context, c *control.Client) error { return call(ctx, node, c) })
}

// unusableReasons are those of a publisher, and of a node of either role.
var unusableReasons = map[string]struct{ notFound, notVerified, notReady string }{
	"publisher": {v1alpha1.ReasonPublisherNotFound, v1alpha1.ReasonPublisherLedgerNotVerified, v1alpha1.ReasonPublisherNotReady},
	"node":      {v1alpha1.ReasonNodeNotFound, v1alpha1.ReasonNodeLedgerNotVerified, v1alpha1.ReasonNodeNotReady},
}

// Usable finds a PyrsiaNode whose ledger is verified, with its ready pods, at
// least one. what it must be is "publisher", or "node" for either role. The
// error is an *unusableError if there is none yet.
func (n *Nodes) Usable(ctx context.Context, namespace, name, what string) (*v1alpha1.PyrsiaNode, []corev1.Pod, error) {
	reasons, node := unusableReasons[what], new(v1alpha1.PyrsiaNode)
	err := n.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, node)
	if apierrors.IsNotFound(err) {
		return nil, nil, &unusableError{reason: reasons.notFound, gone: true,
			message: fmt.Sprintf("there is no PyrsiaNode %q in this namespace: create it, or correct %sRef", name, what)}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the %s %s: %w", what, name, err)
	}
	if what == "publisher" && node.Spec.Role != v1alpha1.RolePublisher {
		return nil, nil, &unusableError{reason: v1alpha1.ReasonInvalidPublisherRef, message: fmt.Sprintf("the PyrsiaNode %q is a mirror: name a publisher in publisherRef", name), permanent: true}
	}
	if c := meta.FindStatusCondition(node.Status.Conditions, v1alpha1.ConditionLedgerVerified); c != nil && c.Status == metav1.ConditionFalse {
		return nil, nil, &unusableError{reason: reasons.notVerified,
			message: fmt.Sprintf("the ledger of the %s %q is not verified: see its condition LedgerVerified", what, name)}
	}
	pods, err := n.ReadyPods(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	if len(pods) == 0 || node.Status.Ledger == nil || !node.DeletionTimestamp.IsZero() {
		return nil, nil, &unusableError{reason: reasons.notReady, message: fmt.Sprintf("waiting for the %s %q to be ready", what, name)}
	}
	return node, pods, nil
}
