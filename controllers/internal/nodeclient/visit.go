package nodeclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A worker that asks a node waits for it, and nodes belong to tenants. So each
// call to a node is made on a visit. A visit has a place, of which a namespace has
// few beside the workers, and a PyrsiaNode half; a worker that finds none goes on
// with another object. A pod that does not answer is asked by one worker alone,
// less and less often.

// Purpose is what a PyrsiaNode is visited for. None takes the places of another:
// publications leave room for withdrawals.
type Purpose int

const (
	ToPublish  Purpose = iota
	ToWithdraw         // an image, or to restore it
	ToLook             // up an Artifact's block
	ToPlan             // what a set holds, to resolve its tags, and to drop its content
	ToPoll             // the state of a PyrsiaNode
	ToReceive          // receipts of pulls
)

// visits bounds the visits to the PyrsiaNodes of one namespace at the same time,
// and the time that a pod has for an answer. Where the publisher waits for others
// it answers within 25 s.
var visits = [...]struct {
	places int
	answer time.Duration
}{
	ToPublish:  {32, 30 * time.Second},
	ToWithdraw: {8, 30 * time.Second},
	ToLook:     {8, 5 * time.Second},
	ToPlan:     {4, 30 * time.Second},
	ToPoll:     {8, 5 * time.Second},
	ToReceive:  {2, 5 * time.Second},
}

// How many objects of each kind are worked on at the same time: at least four
// times as many as one namespace has places.
const (
	ArtifactsAtOnce = 256
	SetsAtOnce      = 16
	NodesAtOnce     = 32
	ReceiptsAtOnce  = 8
)

// ResolveAtOnce is how many tags of a set are resolved at the same time: so many calls
// are made on one visit.
const ResolveAtOnce = 16

// PollsAtOnce bounds the pods of one PyrsiaNode that are asked in parallel.
const PollsAtOnce = 64

const (
	// hangFirst and hangMax are when a pod that did not answer is asked again: the
	// wait doubles.
	hangFirst = 5 * time.Second
	hangMax   = time.Minute
	// busyFirst is when a place is looked for again, at the earliest.
	busyFirst = 2 * time.Second
	// waitUnreachable is about when a node that cannot be reached is asked again.
	waitUnreachable = 10 * time.Second
)

// placeKey names the places of a namespace, or of a PyrsiaNode.
type placeKey struct {
	namespace string
	uid       types.UID // empty: of the namespace
	why       Purpose
}

// Visit is the time in which one worker asks the pods of a PyrsiaNode.
type Visit struct {
	nodes *Nodes
	Node  *v1alpha1.PyrsiaNode
	why   Purpose
}

var (
	busyReasons  = map[v1alpha1.Role]string{v1alpha1.RolePublisher: v1alpha1.ReasonPublisherBusy, v1alpha1.RoleMirror: v1alpha1.ReasonMirrorBusy}
	hangsReasons = map[v1alpha1.Role]string{v1alpha1.RolePublisher: v1alpha1.ReasonPublisherHangs, v1alpha1.RoleMirror: v1alpha1.ReasonMirrorHangs}
)

// Visit takes a place. The error is an *unusableError if none is free.
func (n *Nodes) Visit(node *v1alpha1.PyrsiaNode, why Purpose) (*Visit, error) {
	v := &Visit{nodes: n, Node: node, why: why}
	all, own := v.places()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.visiting[all] >= visits[why].places || n.visiting[own] >= visits[why].places/2 {
		return nil, &unusableError{reason: busyReasons[node.Spec.Role], busy: true, after: busyFirst + rand.N(busyFirst),
			message: fmt.Sprintf("the %s %q has other requests of the operator to answer: this one is sent when it has", objects.Component(node), node.Name)}
	}
	n.visiting[all]++
	n.visiting[own]++
	return v, nil
}

func (v *Visit) places() (all, own placeKey) {
	return placeKey{namespace: v.Node.Namespace, why: v.why}, placeKey{v.Node.Namespace, v.Node.UID, v.why}
}

// End gives the place back.
func (v *Visit) End() {
	n := v.nodes
	n.mu.Lock()
	defer n.mu.Unlock()
	all, own := v.places()
	for _, key := range []placeKey{all, own} {
		if n.visiting[key]--; n.visiting[key] == 0 {
			delete(n.visiting, key)
		}
	}
}

// Ask makes calls that belong together to a pod, and returns their error: the
// node's *control.Error, or an *unusableError if there was no answer.
func (v *Visit) Ask(ctx context.Context, pod corev1.Pod, call func(context.Context, *control.Client) error) error {
	n := v.nodes
	c, err := n.Client(v.Node, pod.Status.PodIP)
	if err != nil {
		return err
	}
	line, began := &c.lines[v.why], n.now()
	if hangs := v.begin(line, pod, began); hangs != nil {
		return hangs
	}
	limited, cancel := context.WithTimeout(ctx, visits[v.why].answer)
	defer cancel()
	err = call(limited, c.Client)
	if hangs := v.learn(ctx, line, pod, began, err); hangs != nil {
		return hangs
	}
	if _, refused := errors.AsType[*control.Error](err); err == nil || refused {
		return err
	}
	ctrl.LoggerFrom(ctx).V(1).Info("a node does not answer", "pod", pod.Name, "error", err.Error())
	// It may be restarting. The retries are spread.
	return &unusableError{reason: v1alpha1.ReasonNodeUnreachable, after: waitUnreachable/2 + rand.N(waitUnreachable),
		message: fmt.Sprintf("the %s's control API does not answer", objects.Component(v.Node))}
}

// begin begins a call to a pod. The error is an *unusableError if the pod does not answer.
func (v *Visit) begin(l *line, pod corev1.Pod, now time.Time) error {
	v.nodes.mu.Lock()
	defer v.nodes.mu.Unlock()
	if l.begin(now) {
		return nil
	}
	return v.hangs(l, pod)
}

// learn keeps what a call that has ended tells of a pod. The error is an
// *unusableError if the pod did not answer.
func (v *Visit) learn(ctx context.Context, l *line, pod corev1.Pod, began time.Time, err error) error {
	v.nodes.mu.Lock()
	defer v.nodes.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		l.probing = false // nothing was learned
	case timedOut(err):
		l.noAnswer(began, v.nodes.now())
		return v.hangs(l, pod)
	default:
		l.answered()
	}
	return nil
}

// hangs tells of a pod that does not answer; the caller holds mu.
func (v *Visit) hangs(l *line, pod corev1.Pod) *unusableError {
	return &unusableError{reason: hangsReasons[v.Node.Spec.Role],
		after: max(l.retry.Sub(v.nodes.now()), 0) + hangFirst/2 + rand.N(hangFirst),
		message: fmt.Sprintf("the %s %q has answered no such request since %s: see the log of its pod %s and the network policies, and delete the pod to start it anew; it is asked again each minute",
			objects.Component(v.Node), v.Node.Name, l.since.UTC().Format(time.RFC3339), pod.Name)}
}

func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// line is how a pod answers calls for one purpose. Nodes.mu guards it.
type line struct {
	silent  int       // how often in sequence it was found silent
	since   time.Time // when the first of the calls was made that were not answered
	last    time.Time // when the last one of them was given up
	retry   time.Time // when it may be asked again
	probing bool      // somebody finds out whether it answers again
}

// begin tells whether a call may be made now.
func (l *line) begin(now time.Time) bool {
	if l.silent == 0 {
		return true
	}
	if l.probing || now.Before(l.retry) {
		return false
	}
	l.probing = true
	return true
}

func (l *line) answered() { *l = line{} }

// noAnswer notes that a call which began at a time was given up.
func (l *line) noAnswer(began, now time.Time) {
	if l.silent > 0 && !began.After(l.last) {
		return // it waited beside one that counts
	}
	if l.silent == 0 {
		l.since = began
	}
	l.retry = now.Add(min(hangFirst<<min(l.silent, 16), hangMax))
	l.silent, l.last, l.probing = l.silent+1, now, false
}
