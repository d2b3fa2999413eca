package controllers

import (
	"cmp"
	"context"
	"errors"
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
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// waitForPublisher is when to look again for a publisher that cannot be asked;
// watches tell of most changes earlier.
const waitForPublisher = time.Minute

// reasonUnreachable is the reason of conditions when a node's control API does not answer.
const reasonUnreachable = "NodeUnreachable"

// clientIdle is how long a client that nobody asked for is kept.
const clientIdle = 10 * time.Minute

// Nodes reaches the pods of PyrsiaNodes over the control API.
type Nodes struct {
	reader client.Reader
	keys   *Keyring
	now    func() time.Time

	mu       sync.Mutex // guards what follows
	clients  map[nodeAddress]*pooledClient
	seeds    *seeds           // that the clients have their keys of
	visiting map[placeKey]int // the places that are taken
}

type nodeAddress struct {
	uid types.UID // of the PyrsiaNode: decides the pinned key
	ip  string
}

type pooledClient struct {
	*control.Client
	used  time.Time
	lines [len(visits)]line // by purpose
}

// NewNodes reads pods from reader and has the nodes' keys from keys.
func NewNodes(reader client.Reader, keys *Keyring, now func() time.Time) *Nodes {
	return &Nodes{reader: reader, keys: keys, now: now, clients: map[nodeAddress]*pooledClient{}, visiting: map[placeKey]int{}}
}

// client is a client of one pod, pinned to the PyrsiaNode's key.
func (n *Nodes) client(node *v1alpha1.PyrsiaNode, ip string) (*pooledClient, error) {
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
	c := &pooledClient{Client: made, used: now}
	n.clients[address] = c
	return c, nil
}

// pods are the pods of a PyrsiaNode, by name.
func (n *Nodes) pods(ctx context.Context, node *v1alpha1.PyrsiaNode) ([]corev1.Pod, error) {
	return n.podsOf(ctx, node, component(node))
}

// podsOf are those of one component of it.
func (n *Nodes) podsOf(ctx context.Context, node *v1alpha1.PyrsiaNode, component string) ([]corev1.Pod, error) {
	pods := new(corev1.PodList)
	if err := n.reader.List(ctx, pods, client.InNamespace(node.Namespace), client.MatchingLabels(labels(node, component))); err != nil {
		return nil, fmt.Errorf("listing the pods of %s: %w", node.Name, err)
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods.Items, nil
}

// readyPods are those whose node is ready.
func (n *Nodes) readyPods(ctx context.Context, node *v1alpha1.PyrsiaNode) ([]corev1.Pod, error) {
	pods, err := n.pods(ctx, node)
	return slices.DeleteFunc(pods, func(p corev1.Pod) bool {
		return p.Status.PodIP == "" || p.DeletionTimestamp != nil || !isReady(p) && !lacksProofAlone(p)
	}), err
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// unusableError tells why a node cannot be asked.
type unusableError struct {
	reason, message string
	gone            bool          // there is none
	permanent       bool          // until somebody changes the reference
	busy            bool          // others are asked first
	after           time.Duration // when to try again; 0: in waitForPublisher
}

func (e *unusableError) Error() string { return e.message }

// notAsked handles a node that could not be asked, wherever that happens: it says why
// in a condition, and tells when to ask again. Any other error it returns as it is.
func notAsked(obj object, condition string, err error) (time.Duration, error) {
	e, ok := errors.AsType[*unusableError](err)
	if !ok {
		return 0, err
	}
	// That it is busy is no news of what is known already.
	if c := meta.FindStatusCondition(*obj.Conditions(), condition); !e.busy || c == nil || c.ObservedGeneration != obj.GetGeneration() {
		setWaiting(obj, condition, e.reason, e.message)
	}
	if e.permanent {
		return 0, reconcile.TerminalError(err)
	}
	wait, _ := askAgain(err)
	return wait, nil
}

// askAgain is when to ask a node again that could not be asked; ok is false of any
// other error.
func askAgain(err error) (wait time.Duration, ok bool) {
	e, ok := errors.AsType[*unusableError](err)
	if !ok {
		return 0, false
	}
	return cmp.Or(e.after, waitForPublisher), true
}

// isUnusable tells whether a node could not be asked.
func isUnusable(err error) bool {
	_, ok := errors.AsType[*unusableError](err)
	return ok
}

// isBusy tells whether that is because others are asked first.
func isBusy(err error) bool {
	e, ok := errors.AsType[*unusableError](err)
	return ok && e.busy
}

// isGone tells whether there is no such node, or none that can publish.
func isGone(err error) bool {
	e, ok := errors.AsType[*unusableError](err)
	return ok && (e.gone || e.permanent)
}

// askPublisher asks a publisher. The error is an *unusableError if it cannot be
// asked now, and its *control.Error if it refuses.
func (n *Nodes) askPublisher(ctx context.Context, namespace, name string, why purpose, call func(context.Context, *v1alpha1.PyrsiaNode, *control.Client) error) error {
	node, pods, err := n.usable(ctx, namespace, name, "publisher")
	if err != nil {
		return err
	}
	v, err := n.visit(node, why)
	if err != nil {
		return err
	}
	defer v.end()
	return v.ask(ctx, pods[0], func(ctx context.Context, c *control.Client) error { return call(ctx, node, c) })
}

// usable finds a PyrsiaNode whose ledger is verified, with its ready pods, at
// least one. what it must be is "publisher", or "node" for either role. The
// error is an *unusableError if there is none yet.
func (n *Nodes) usable(ctx context.Context, namespace, name, what string) (*v1alpha1.PyrsiaNode, []corev1.Pod, error) {
	unusable := func(reason, format string, args ...any) error {
		return &unusableError{reason: strings.ToUpper(what[:1]) + what[1:] + reason, message: fmt.Sprintf(format, args...), gone: reason == "NotFound"}
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
