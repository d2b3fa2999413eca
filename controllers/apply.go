package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// fieldOwner is the operator's name as a field manager, and the value of the
// label on all that it makes.
const fieldOwner = "pyrsia-operator"

// foreignObjectError tells that an object of the wanted name is not the
// operator's own, and is left alone.
type foreignObjectError struct{ kind, name string }

func (e *foreignObjectError) Error() string {
	return fmt.Sprintf("a %s %q exists that this PyrsiaNode did not make: delete it, or give the PyrsiaNode another name", e.kind, e.name)
}

// applier writes the objects that belong to a PyrsiaNode.
type applier struct {
	client client.Client
	live   client.Reader // not cached: sees what lacks the operator's label too
}

// outdated reads the object (from the cache) into live, and tells whether the
// fields that the operator owns of it differ from the desired ones: because
// the desired ones changed, or because somebody else changed the object.
func outdated[O client.Object, A runtime.ApplyConfiguration](ctx context.Context, a applier, n *v1alpha1.PyrsiaNode,
	live O, kind string, extract func(O, string) (A, error), name string, desired A,
) (bool, error) {
	key := client.ObjectKey{Namespace: n.Namespace, Name: name}
	err := a.client.Get(ctx, key, live)
	if apierrors.IsNotFound(err) {
		if err = a.live.Get(ctx, key, live); apierrors.IsNotFound(err) {
			return true, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("reading %s %s: %w", kind, name, err)
	}
	if !metav1.IsControlledBy(live, n) {
		return false, &foreignObjectError{kind, name}
	}
	owned, err := extract(live, fieldOwner)
	if err != nil {
		return false, fmt.Errorf("reading the owned fields of %s %s: %w", kind, name, err)
	}
	same, err := equalJSON(owned, desired)
	return !same, err
}

func (a applier) apply(ctx context.Context, desired runtime.ApplyConfiguration) error {
	return a.client.Apply(ctx, desired, client.FieldOwner(fieldOwner), client.ForceOwnership)
}

// deleteOwned deletes an object of the PyrsiaNode that is wanted no more, if it
// is there. It is read into obj.
func deleteOwned(ctx context.Context, a applier, n *v1alpha1.PyrsiaNode, obj client.Object, kind, name string) error {
	err := a.client.Get(ctx, client.ObjectKey{Namespace: n.Namespace, Name: name}, obj)
	if apierrors.IsNotFound(err) || err == nil && (!metav1.IsControlledBy(obj, n) || obj.GetDeletionTimestamp() != nil) {
		return nil
	}
	if err == nil {
		uid := obj.GetUID()
		err = client.IgnoreNotFound(a.client.Delete(ctx, obj, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	}
	return wrap(err, "deleting %s %s", kind, name)
}

func equalJSON(a, b any) (bool, error) {
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
