package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=configmaps,verbs=create
// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=configmaps,resourceNames=pyrsia-operator-hosts,verbs=get;update

const (
	// hostRecordName is the ConfigMap in the operator's namespace with the record.
	hostRecordName = "pyrsia-operator-hosts"
	// recordedSince is its key that tells when the record was begun.
	recordedSince = "recorded-since"
)

// hostRecord is the operator's record of the PyrsiaNodes that have reached
// Kubernetes nodes, by UID. They go on when their namespace is not allowed any
// more, and those that were there before there were rules when they break one:
// else an upgrade would take the mirrors from under a cluster. It is not kept on
// the PyrsiaNode, where its owner could write it.
type hostRecord struct {
	client    client.Client
	live      client.Reader
	namespace string
	now       func() time.Time

	mu     sync.Mutex
	stored *corev1.ConfigMap // guarded by mu; nil until it was read
}

// recorded is what the record holds of one PyrsiaNode.
type recorded struct {
	PyrsiaNode string   `json:"pyrsiaNode"` // NAMESPACE/NAME, for people, and to see when it is gone
	Keeps      []string `json:"keeps,omitempty"`
}

// of is the record of a PyrsiaNode, if there is one. first tells those that are
// there when the record is begun.
func (h *hostRecord) of(ctx context.Context, n *v1alpha1.PyrsiaNode, first func(context.Context) (map[types.UID]recorded, error)) (recorded, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stored == nil {
		if err := h.begin(ctx, first); err != nil {
			return recorded{}, false, err
		}
	}
	text, ok := h.stored.Data[string(n.UID)]
	var r recorded
	if ok {
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return r, false, fmt.Errorf("reading what ConfigMap %s/%s records of %s: %w", h.namespace, hostRecordName, n.UID, err)
		}
	}
	return r, ok, nil
}

// begin reads the record, and begins it if nobody has: with who is there.
func (h *hostRecord) begin(ctx context.Context, first func(context.Context) (map[types.UID]recorded, error)) error {
	record, err := h.read(ctx)
	if err != nil {
		return err
	}
	if record.Data[recordedSince] == "" {
		there, err := first(ctx)
		if err != nil {
			return err
		}
		record.Data = map[string]string{recordedSince: h.now().UTC().Format(time.RFC3339)}
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
	h.stored = record
	return nil
}

// put records a PyrsiaNode, and forgets those that are gone.
func (h *hostRecord) put(ctx context.Context, n *v1alpha1.PyrsiaNode, keeps []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	text, err := recorded{PyrsiaNode: n.Namespace + "/" + n.Name, Keeps: keeps}.text()
	if err != nil {
		return err
	}
	record := h.stored.DeepCopy()
	for try := 0; ; try++ {
		record.Data[string(n.UID)] = text
		for _, uid := range slices.Collect(maps.Keys(record.Data)) {
			if uid != recordedSince && uid != string(n.UID) && h.gone(ctx, uid, record.Data[uid]) {
				delete(record.Data, uid)
			}
		}
		// Crash after: the PyrsiaNode is recorded and has no pods yet. It was allowed
		// to have them.
		err := h.write(ctx, record)
		if err == nil {
			h.stored = record
			return nil
		}
		switch {
		case try == 4:
			return err
		case apierrors.IsNotFound(err): // somebody has deleted it: all of it comes back
			record.UID, record.ResourceVersion = "", ""
		case !apierrors.IsConflict(err):
			return err
		default: // another replica has written it
			if record, err = h.read(ctx); err != nil {
				return err
			}
		}
	}
}

// gone tells whether a PyrsiaNode that is recorded is there no more.
func (h *hostRecord) gone(ctx context.Context, uid, text string) bool {
	var r recorded
	if json.Unmarshal([]byte(text), &r) != nil {
		return false
	}
	namespace, name, _ := strings.Cut(r.PyrsiaNode, "/")
	n := new(v1alpha1.PyrsiaNode)
	err := h.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, n)
	return apierrors.IsNotFound(err) || err == nil && string(n.UID) != uid
}

func (h *hostRecord) read(ctx context.Context) (*corev1.ConfigMap, error) {
	record := new(corev1.ConfigMap)
	err := h.live.Get(ctx, client.ObjectKey{Namespace: h.namespace, Name: hostRecordName}, record)
	if apierrors.IsNotFound(err) {
		record = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: h.namespace, Name: hostRecordName, Labels: map[string]string{labelManagedBy: fieldOwner}}}
		err = nil
	}
	if record.Data == nil {
		record.Data = map[string]string{}
	}
	return record, wrap(err, "reading ConfigMap %s/%s", h.namespace, hostRecordName)
}

func (h *hostRecord) write(ctx context.Context, record *corev1.ConfigMap) error {
	if record.UID == "" {
		return wrap(h.client.Create(ctx, record), "making ConfigMap %s/%s", h.namespace, hostRecordName)
	}
	return wrap(h.client.Update(ctx, record), "writing ConfigMap %s/%s", h.namespace, hostRecordName)
}

func (r recorded) text() (string, error) {
	data, err := json.Marshal(r)
	return string(data), wrap(err, "recording the PyrsiaNode %s", r.PyrsiaNode)
}
