package imageset

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// maxHeld bounds the images that the sets of one namespace hold together. What they
// hold is in the operator's memory, which all namespaces share, and takes many times
// as much there as in the sets.
const maxHeld = 2 * control.MaxImages

// admit refuses a set that is to hold more images than there is room for. A set
// goes on that holds no more than before, also after a restart: its status tells.
func (r *Reconciler) admit(ctx context.Context, s *imageSet, images int) error {
	if images > control.MaxImages {
		return control.TooManyImages()
	}
	sets := new(v1alpha1.OfficialImageSetList)
	if err := r.Client.List(ctx, sets, client.InNamespace(s.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing the image sets: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	others := 0
	for i := range sets.Items {
		o := &sets.Items[i]
		if o.UID == s.uid {
			continue
		}
		held := int(o.Status.Desired)
		if other := r.sets[client.ObjectKeyFromObject(o)]; other != nil && other.uid == o.UID {
			held = max(held, other.held)
		}
		others += held
	}
	if images > maxHeld-others && images > max(int(s.Status.Desired), s.held) {
		return &control.Error{Reason: v1alpha1.ReasonTooManyImages,
			Message: fmt.Sprintf("the set holds %d images, and the others of this namespace %d: together at most %d; take some out, or make the set in another namespace", images, others, maxHeld)}
	}
	s.held = images
	return nil
}
