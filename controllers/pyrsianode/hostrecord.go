package pyrsianode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=configmaps,verbs=create
// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=configmaps,resourceNames=pyrsia-operator-hosts,verbs=get;update

const (
	// HostRecordName is the ConfigMap in the operator's namespace with the record.
	HostRecordName = "pyrsia-operator-hosts"
	// RecordedSince is its key that tells when the record was begun.
	RecordedSince = "recorded-since"
)

// hostRecord is the operator's record of the PyrsiaNodes that have reached
// Kubernetes nodes, by UID, and of what they have there. They go on when their
// namespace is not allowed any more, and those that were there before there were
// rules when they break one: else an upgrade would take the mirrors from under a
// cluster. It is not kept on the PyrsiaNode, where its owner could write it.
type hostRecord struct {
	client    client.Client
	live      client.Reader
	namespace string
	now       func() time.Time

	mu     sync.Mutex
	stored *corev1.ConfigMap      // guarded by mu; nil until it was read
	all    map[types.UID]recorded // guarded by mu; what of stored can be read
}

// recorded is what the record holds of one PyrsiaNode.
type recorded struct {
	PyrsiaNode string   `json:"pyrsiaNode"` // NAMESPACE/NAME, for people, and to see when it is gone
	Keeps      []string `json:"keeps,omitempty"`
	// Claims are oldest first, the last one being that of the spec. They are null
	// of a PyrsiaNode that was recorded before they counted.
	Claims []desired.HostClaim `json:"claims"`
	// EveryNode is of a mirror that stands on each Linux machine unless its spec
	// says otherwise; not of one that v0.1.0 made, which may have been kept off some
	// by their taints on purpose.
	EveryNode bool `json:"everyNode,omitempty"`
}

// hostView is the record as a PyrsiaNode saw it.
type hostView struct {
	was     *recorded // nil if the PyrsiaNode is not recorded
	all     map[types.UID]recorded
	version string
}

type beginRecord func(context.Context) (map[types.UID]recorded, error)

// view is what is recorded. first tells those that are there when the record is begun.
func (h *hostRecord) view(ctx context.Context, n *v1alpha1.PyrsiaNode, first beginRecord) (v hostView, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stored == nil {
		if err := h.begin(ctx, first); err != nil {
			return v, err
		}
	}
	v.all, v.version = h.all, h.stored.ResourceVersion
	if r, ok := h.all[n.UID]; ok {
		v.was = &r
	} else if text, ok := h.stored.Data[string(n.UID)]; ok {
		return v, fmt.Errorf("ConfigMap %s/%s records of %s what cannot be read: %q", h.namespace, HostRecordName, n.UID, status.Bounded(text, 200))
	}
	return v, nil
}

// knows tells whether a PyrsiaNode is recorded, as far as the record was read.
func (h *hostRecord) knows(n *v1alpha1.PyrsiaNode) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stored != nil && h.stored.Data[string(n.UID)] != ""
}

// begin reads the record, or creates it with the PyrsiaNodes that exist.
func (h *hostRecord) begin(ctx context.Context, first beginRecord) error {
	record, err := h.read(ctx)
	if err != nil {
		return err
	}
	if record.Data[RecordedSince] == "" {
		there, err := first(ctx)
		if err != nil {
			return err
		}
		record.Data = map[string]string{RecordedSince: h.now().UTC().Format(time.RFC3339)}
		for uid, r := range there {
			if record.Data[string(uid)], err = r.text(); err != nil {
				return err
			}
		}
		// Crash before: the next start finds no record, and the same PyrsiaNodes.
		if err := h.write(ctx, record); err != nil {
			return err
		}
	}
	h.keep(record)
	return nil
}

// keep makes what the API server has what is looked at. Maps that were given
// away stay as they were.
func (h *hostRecord) keep(record *corev1.ConfigMap) {
	h.stored, h.all = record, map[types.UID]recorded{}
	for uid, text := range record.Data {
		var r recorded
		if uid != RecordedSince && json.Unmarshal([]byte(text), &r) == nil {
			h.all[types.UID(uid)] = r
		}
	}
}

// put records a PyrsiaNode, and forgets those that are gone. If the record was
// written since it was seen, the error is a conflict: the next view is newer.
func (h *hostRecord) put(ctx context.Context, n *v1alpha1.PyrsiaNode, seen hostView, r recorded) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stored == nil || h.stored.ResourceVersion != seen.version {
		return h.conflict()
	}
	r.PyrsiaNode = n.Namespace + "/" + n.Name
	text, err := r.text()
	if err != nil {
		return err
	}
	record := h.stored.DeepCopy()
	record.Data[string(n.UID)] = text
	for uid, other := range h.all {
		if uid != n.UID && h.gone(ctx, uid, other) {
			delete(record.Data, string(uid))
		}
	}
	// Crash after: the PyrsiaNode is recorded and has no pods yet. It was allowed
	// to have them.
	err = h.write(ctx, record)
	if apierrors.IsNotFound(err) { // somebody has deleted it: all of it comes back
		record.UID, record.ResourceVersion = "", ""
		if err = h.write(ctx, record); apierrors.IsAlreadyExists(err) {
			err = h.conflict()
		}
	}
	switch {
	case apierrors.IsConflict(err):
		h.stored, h.all = nil, nil
	case err == nil:
		h.keep(record)
	}
	return err
}

// forget drops those of one name that are there no more. What is not done is done
// by the next put.
func (h *hostRecord) forget(ctx context.Context, name types.NamespacedName) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range 5 {
		if h.stored == nil {
			return nil // it is read with the next PyrsiaNode that wants something
		}
		record := h.stored.DeepCopy()
		for uid, r := range h.all {
			if r.PyrsiaNode == name.Namespace+"/"+name.Name && h.gone(ctx, uid, r) {
				delete(record.Data, string(uid))
			}
		}
		if len(record.Data) == len(h.stored.Data) {
			return nil
		}
		err := h.write(ctx, record)
		if apierrors.IsConflict(err) { // somebody else has written it
			if record, err = h.read(ctx); err == nil && record.UID != "" {
				h.keep(record)
				continue
			}
		}
		switch {
		case err == nil && record.UID != "":
			h.keep(record)
		case err == nil, apierrors.IsNotFound(err):
			h.stored, h.all, err = nil, nil, nil // with all that was in it
		}
		return err
	}
	return h.conflict()
}

func (h *hostRecord) conflict() error {
	return apierrors.NewConflict(corev1.Resource("configmaps"), HostRecordName, errors.New("it was written by somebody else"))
}

// gone tells whether a PyrsiaNode that is recorded is there no more.
func (h *hostRecord) gone(ctx context.Context, uid types.UID, r recorded) bool {
	namespace, name, _ := strings.Cut(r.PyrsiaNode, "/")
	n := new(v1alpha1.PyrsiaNode)
	err := h.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, n)
	return apierrors.IsNotFound(err) || err == nil && n.UID != uid
}

func (h *hostRecord) read(ctx context.Context) (*corev1.ConfigMap, error) {
	record := new(corev1.ConfigMap)
	err := h.live.Get(ctx, client.ObjectKey{Namespace: h.namespace, Name: HostRecordName}, record)
	if apierrors.IsNotFound(err) {
		record = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: h.namespace, Name: HostRecordName, Labels: map[string]string{objects.LabelManagedBy: objects.FieldOwner}}}
		err = nil
	}
	if record.Data == nil {
		record.Data = map[string]string{}
	}
	return record, objects.Wrap(err, "reading ConfigMap %s/%s", h.namespace, HostRecordName)
}

func (h *hostRecord) write(ctx context.Context, record *corev1.ConfigMap) error {
	if record.UID == "" {
		return objects.Wrap(h.client.Create(ctx, record), "making ConfigMap %s/%s", h.namespace, HostRecordName)
	}
	return objects.Wrap(h.client.Update(ctx, record), "writing ConfigMap %s/%s", h.namespace, HostRecordName)
}

func (r recorded) text() (string, error) {
	if r.Claims == nil {
		r.Claims = []desired.HostClaim{}
	}
	data, err := json.Marshal(r)
	return string(data), objects.Wrap(err, "recording the PyrsiaNode %s", r.PyrsiaNode)
}

// madeForEveryNode tells whether the pods of a mirror have a place that its spec
// does not name: then the operator that made them knew where mirrors belong. v0.1.0
// did not, and its mirrors stay where they are.
func madeForEveryNode(n *v1alpha1.PyrsiaNode, set *appsv1.DaemonSet) bool {
	pod := set.Spec.Template.Spec
	return len(n.Spec.Tolerations) == 0 && slices.ContainsFunc(pod.Tolerations, func(t corev1.Toleration) bool { return t.Key != desired.TaintNotProven }) ||
		!desired.RequiresNodes(n.Spec.Affinity) && desired.RequiresNodes(pod.Affinity)
}
