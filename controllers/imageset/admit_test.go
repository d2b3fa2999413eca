package imageset

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// What sets hold, they hold after a restart of the operator too, whichever of them
// comes first: their status tells.
func TestWhatIsHeldStaysAfterARestart(t *testing.T) {
	t.Parallel()
	set := func(name string, held int) *v1alpha1.OfficialImageSet {
		return &v1alpha1.OfficialImageSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "images", Name: name, UID: types.UID(name)},
			Status:     v1alpha1.OfficialImageSetStatus{Desired: int32(held)},
		}
	}
	more, full := set("more", 0), []*v1alpha1.OfficialImageSet{set("a", control.MaxImages), set("b", control.MaxImages)}
	r := &Reconciler{Client: fixtures.Client(t, more, full[0], full[1]), sets: map[types.NamespacedName]*imageSet{}}
	if err := r.admit(t.Context(), r.begin(more), 1); err == nil {
		t.Error("a new set was admitted after a restart")
	}
	for _, set := range full {
		if err := r.admit(t.Context(), r.begin(set), control.MaxImages); err != nil {
			t.Errorf("what was held is refused after a restart: %v", err)
		}
	}
}
