// Package apply writes the objects that belong to a PyrsiaNode by server-side apply, and
// leaves those alone that do not.
// It imports the API and objects. The controller of PyrsiaNodes calls it.
package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// ForeignError says that an object with the desired name is not the operator's
// own, and is left alone.
type ForeignError struct{ kind, name string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("a %s %q exists that this PyrsiaNode did not make: delete it, or give the PyrsiaNode another name", e.kind, e.name)
}

// Applier writes the objects that belong to a PyrsiaNode, and no others: it
// creates one first, and changes only what carries the PyrsiaNode's UID. Its own
// UID goes with each change, so that an object which has taken its place
// meanwhile is refused by the API server.
type Applier struct {
	Client client.Client
	Live   client.Reader // not cached: sees what lacks the operator's label too

	// current are the states of objects in which they were found to be as desired:
	// which fields of an object the operator owns takes a while to find out.
	current *lru.Cache[types.UID, state]
}

// state is an object at a resourceVersion, and what was desired of it.
type state struct {
	resourceVersion string
	desired         [sha256.Size]byte // of its JSON
}

// maxCurrent bounds the objects whose state is kept: 100 bytes of each.
const maxCurrent = 4096

// New is an Applier of a client, and of a reader that is not cached.
func New(c client.Client, live client.Reader) Applier {
	current, err := lru.New[types.UID, state](maxCurrent)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return Applier{c, live, current}
}

// Outdated reads the object (from the cache) into live, and tells whether the
// fields that the operator owns of it differ from the desired ones: because
// the desired ones changed, or because somebody else changed the object.
func Outdated[O client.Object, A runtime.ApplyConfiguration](ctx context.Context, a Applier, n *v1alpha1.PyrsiaNode,
	live O, kind string, extract func(O, string) (A, error), name string, desired A,
) (bool, error) {
	key := client.ObjectKey{Namespace: n.Namespace, Name: name}
	err := a.Client.Get(ctx, key, live)
	if apierrors.IsNotFound(err) || err == nil && objects.IsStripped(live) && metav1.IsControlledBy(live, n) {
		live.SetAnnotations(nil) // what is read is put into it
		if err = a.Live.Get(ctx, key, live); apierrors.IsNotFound(err) {
			return true, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("reading %s %s: %w", kind, name, err)
	}
	if !metav1.IsControlledBy(live, n) {
		return false, &ForeignError{kind, name}
	}
	data, err := json.Marshal(desired)
	if err != nil {
		return false, fmt.Errorf("comparing %s %s: %w", kind, name, err)
	}
	now := state{live.GetResourceVersion(), sha256.Sum256(data)}
	if was, ok := a.current.Get(live.GetUID()); ok && was == now {
		return false, nil
	}
	owned, err := extract(live, objects.FieldOwner)
	if err != nil {
		return false, fmt.Errorf("reading the owned fields of %s %s: %w", kind, name, err)
	}
	has, err := json.Marshal(owned)
	if err != nil {
		return false, fmt.Errorf("comparing %s %s: %w", kind, name, err)
	}
	if !bytes.Equal(has, data) {
		return true, nil
	}
	a.current.Add(live.GetUID(), now)
	return false, nil
}

// Apply makes the object as desired. live is the object as outdated has read
// it: without a UID, it does not exist.
func (a Applier) Apply(ctx context.Context, live client.Object, desired runtime.ApplyConfiguration) error {
	object, err := asUnstructured(desired)
	if err != nil {
		return err
	}
	if live.GetUID() == "" {
		// Crash after: the fields belong to the creation and not to an apply, so the
		// object counts as outdated, and the next call goes on below.
		created := object.DeepCopy()
		if err := a.Client.Create(ctx, created, client.FieldOwner(objects.FieldOwner)); err != nil {
			return err
		}
		live = created
	}
	if err := a.takeFields(ctx, live); err != nil {
		if apierrors.IsConflict(err) {
			return nil // the cache is behind: a watch tells when it is not
		}
		return fmt.Errorf("taking over the fields that were created: %w", err)
	}
	object.SetUID(live.GetUID())
	err = a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(objects.FieldOwner), client.ForceOwnership)
	if replaced(err) {
		return &ForeignError{object.GetKind(), object.GetName()}
	}
	return err
}

// replaced tells whether an apply was refused because the object has another
// UID by now.
func replaced(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && status.ErrStatus.Details != nil && slices.ContainsFunc(status.ErrStatus.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Field == "metadata.uid"
	})
}

// takeFields turns the fields that the operator owns by creating the object into
// those that it owns by applying it: otherwise fields that are no longer desired
// would stay.
func (a Applier) takeFields(ctx context.Context, live client.Object) error {
	created := slices.ContainsFunc(live.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == objects.FieldOwner && f.Operation == metav1.ManagedFieldsOperationUpdate && f.Subresource == ""
	})
	if !created {
		return nil
	}
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(objects.FieldOwner), objects.FieldOwner)
	if err != nil || patch == nil {
		return err
	}
	return a.Client.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch))
}

// ApplySecret makes a Secret of the PyrsiaNode as desired. The operator may not
// read Secrets: whose one is, an empty patch that changes nothing tells, whose
// answer is the metadata alone.
func (a Applier) ApplySecret(ctx context.Context, n *v1alpha1.PyrsiaNode, desired *coreac.SecretApplyConfiguration) error {
	live := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: *desired.Name}}
	live.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := a.Client.Patch(ctx, live, client.RawPatch(types.MergePatchType, []byte("{}")), client.DryRunAll)
	if apierrors.IsNotFound(err) {
		object, err := asUnstructured(desired)
		if err != nil {
			return err
		}
		return a.Client.Create(ctx, object, client.FieldOwner(objects.FieldOwner))
	}
	if err != nil {
		return fmt.Errorf("asking whose Secret %s is: %w", *desired.Name, err)
	}
	if !metav1.IsControlledBy(live, n) {
		return &ForeignError{"Secret", *desired.Name}
	}
	return a.Client.Apply(ctx, desired.WithUID(live.UID).WithResourceVersion(live.ResourceVersion), client.FieldOwner(objects.FieldOwner), client.ForceOwnership)
}

func asUnstructured(desired runtime.ApplyConfiguration) (*unstructured.Unstructured, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(desired)
	if err != nil {
		return nil, fmt.Errorf("writing out what is to be applied: %w", err)
	}
	return &unstructured.Unstructured{Object: fields}, nil
}

// DeleteOwned deletes an object of the PyrsiaNode that is no longer desired, if
// it exists. It is read into obj.
func DeleteOwned(ctx context.Context, a Applier, n *v1alpha1.PyrsiaNode, obj client.Object, kind, name string) error {
	err := a.Client.Get(ctx, client.ObjectKey{Namespace: n.Namespace, Name: name}, obj)
	if apierrors.IsNotFound(err) || err == nil && (!metav1.IsControlledBy(obj, n) || obj.GetDeletionTimestamp() != nil) {
		return nil
	}
	if err == nil {
		uid := obj.GetUID()
		err = client.IgnoreNotFound(a.Client.Delete(ctx, obj, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	}
	return objects.Wrap(err, "deleting %s %s", kind, name)
}

// EqualJSON tells whether two objects are written as the same JSON.
func EqualJSON(a, b any) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, fmt.Errorf("comparing objects: %w", err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		return false, fmt.Errorf("comparing objects: %w", err)
	}
	return bytes.Equal(x, y), nil
}
