package pullhistory

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

const (
	// fieldOwner owns status.lastPulled of Artifacts and nothing else. The controller
	// of Artifacts patches the other fields of the status, and never this one.
	fieldOwner = objects.FieldOwner + "-pulls"
	// recordEvery is how much later than status.lastPulled an image must be pulled
	// for that to be written: a busy image costs one write in that time.
	recordEvery = time.Hour
)

// record writes into an Artifact's status when its image was pulled last, if that is
// news. While others write to the Artifact the pull stays in the book, for the next turn.
func (r *Reconciler) record(ctx context.Context, b *book, art *v1alpha1.Artifact, at time.Time) error {
	if last := art.Status.LastPulled; last == nil || at.Sub(last.Time) >= recordEvery {
		// Crash before: the pods tell of the pull again.
		err := r.applyLastPulled(ctx, art, at)
		if apierrors.IsConflict(err) {
			return nil
		}
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("recording the last pull of Artifact %s: %w", art.Name, err)
		}
	}
	delete(b.heard, pullKey{art.Spec.Image, art.Spec.Digest})
	return nil
}

// applyLastPulled takes the field by force: v0.1.0 wrote it as the controller of Artifacts.
func (r *Reconciler) applyLastPulled(ctx context.Context, art *v1alpha1.Artifact, at time.Time) error {
	status := map[string]any{"lastPulled": at.UTC().Format(time.RFC3339)}
	pulled := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	pulled.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Artifact"))
	pulled.SetNamespace(art.Namespace)
	pulled.SetName(art.Name)
	return r.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(pulled), client.FieldOwner(fieldOwner), client.ForceOwnership)
}
