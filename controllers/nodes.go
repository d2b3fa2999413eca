package controllers

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
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// waitForPublisher is when to look again for a publisher that cannot be asked;
// watches tell of most changes earlier.
const waitForPublisher = time.Minute

// clientIdle is how long a client that nobody asked for is kept.
const clientIdle = 10 * time.Minute

// Nodes reaches the pods of PyrsiaNodes over the control API.
type Nodes struct {
	reader client.Reader
	keys   *Keyring
	now    func() time.Time

	mu      sync.Mutex // guards what follows
	clients map[nodeAddress]*pooledClient
	seeds   *seeds // that the clients have their keys of
}

type nodeAddress struct {
	uid types.UID // of the PyrsiaNode: decides the pinned key
	ip  string
}

type pooledClient struct {
	*control.Client
	used   time.Time
	silent time.Time // when it last did not answer within pollTimeout; zero once it has answered
}

// NewNodes reads pods from reader and has the nodes' keys from keys.
func NewNodes(reader client.Reader, keys *Keyring, now func() time.Time) *Nodes {
	return &Nodes{reader: reader, keys: keys, now: now, clients: map[nodeAddress]*pooledClient{}}
}

// client is a client of one pod, pinned to the PyrsiaNode's key.
func (n *Nodes) client(node *v1alpha1.PyrsiaNode, ip string) (*control.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, seeds := n.now(), n.keys.seeds.Load()
	if n.seeds != seeds { // rotated: who asks now asks by the new keys
		for _, c := range n.clients {
			c.Close()
		}
		clear(n.clients)
		n.seeds = seeds
	}
	address := nodeAddress{uid: node.UID, ip: ip}
	if c := n.clients[address]; c != nil {
		c.used = now
		return c.Client, nil
	}
	for a, c := range n.clients {
		if now.Sub(c.used) > clientIdle {
			c.Close()
			delete(n.clients, a)
		}
	}
	c, err := control.NewClient(net.JoinHostPort(ip, strconv.Itoa(control.Port)), seeds.operatorKeys(node))
	if err != nil {
		return nil, err
	}
	n.clients[address] = &pooledClient{Client: c, used: now}
	return c, nil
}

// How long a pod may take to answer when it is polled. One that did not is
// asked as often, but given as much time only once a minute, so that it does not
// hold the others up.
const (
	pollTimeout       = 5 * time.Second
	pollTimeoutSilent = time.Second
	pollSilentAgain   = time.Minute
)

// patience is how long a pod that is polled may take.
func (n *Nodes) patience(node *v1alpha1.PyrsiaNode, ip string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.clients[nodeAddress{uid: node.UID, ip: ip}]
	if c == nil || c.silent.IsZero() || n.now().Sub(c.silent) >= pollSilentAgain {
		return pollTimeout
	}
	return pollTimeoutSilent
}

// answered notes whether a pod answered within the time that it was given.
func (n *Nodes) answered(node *v1alpha1.PyrsiaNode, ip string, patience time.Duration, yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.clients[nodeAddress{uid: node.UID, ip: ip}]
	switch {
	case c == nil:
	case yes:
		c.silent = time.Time{}
	case patience == pollTimeout:
		c.silent = n.now()
	}
}

// pods are the pods of a PyrsiaNode, by name.
func (n *Nodes) pods(ctx context.Context, node *v1alpha1.PyrsiaNode) ([]corev1.Pod, error) {
	pods := new(corev1.PodList)
	if err := n.reader.List(ctx, pods, client.InNamespace(node.Namespace), client.MatchingLabels(labels(node, component(node)))); err != nil {
		return nil, fmt.Errorf("listing the pods of %s: %w", node.Name, err)
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods.Items, nil
}

// readyPods are those that are ready.
func (n *Nodes) readyPods(ctx context.Context, node *v1alpha1.PyrsiaNode) ([]corev1.Pod, error) {
	pods, err := n.pods(ctx, node)
	return slices.DeleteFunc(pods, func(p corev1.Pod) bool {
		return p.Status.PodIP == "" || p.DeletionTimestamp != nil || !isReady(p)
	}), err
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// unusableError tells why a publisher cannot be asked.
type unusableError struct {
	reason, message string
	permanent       bool // until somebody changes the reference
}

func (e *unusableError) Error() string { return e.message }

// publisher finds a publisher that can be asked. The error is an
// *unusableError if there is none yet.
func (n *Nodes) publisher(ctx context.Context, namespace, name string) (*v1alpha1.PyrsiaNode, *control.Client, error) {
	node, pods, err := n.usable(ctx, namespace, name, "publisher")
	if err != nil {
		return nil, nil, err
	}
	c, err := n.client(node, pods[0].Status.PodIP)
	return node, c, err
}

// usable finds a PyrsiaNode whose ledger is verified, with its ready pods, at
// least one. what it must be is "publisher", or "node" for either role. The
// error is an *unusableError if there is none yet.
func (n *Nodes) usable(ctx context.Context, namespace, name, what string) (*v1alpha1.PyrsiaNode, []corev1.Pod, error) {
	unusable := func(reason, format string, args ...any) error {
		return &unusableError{reason: strings.ToUpper(what[:1]) + what[1:] + reason, message: fmt.Sprintf(format, args...)}
	}
	node := new(v1alpha1.PyrsiaNode)
	err := n.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, node)
	if apierrors.IsNotFound(err) {
		return nil, nil, unusable("NotFound", "there is no PyrsiaNode %q in this namespace: create it, or correct %sRef", name, what)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the %s %s: %w", what, name, err)
	}
	if what == "publisher" && node.Spec.Role != v1alpha1.RolePublisher {
		return nil, nil, &unusableError{reason: "InvalidPublisherRef", message: fmt.Sprintf("the PyrsiaNode %q is a mirror: name a publisher in publisherRef", name), permanent: true}
	}
	if c := meta.FindStatusCondition(node.Status.Conditions, v1alpha1.ConditionLedgerVerified); c != nil && c.Status == metav1.ConditionFalse {
		return nil, nil, unusable("LedgerNotVerified", "the ledger of the %s %q is not verified: see its condition LedgerVerified", what, name)
	}
	pods, err := n.readyPods(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	if len(pods) == 0 || node.Status.Ledger == nil || !node.DeletionTimestamp.IsZero() {
		return nil, nil, unusable("NotReady", "waiting for the %s %q to be ready", what, name)
	}
	return node, pods, nil
}
