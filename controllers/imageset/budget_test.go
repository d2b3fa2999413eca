package imageset

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// A publisher that names new digests again and again has the operator make a
// bounded number of Artifacts: those of other namespaces are made as ever.
func TestSetsMakeABoundedNumberOfArtifacts(t *testing.T) {
	t.Parallel()
	c := fixtures.Client(t)
	now := time.Now()
	r := &Reconciler{Client: c, Now: func() time.Time { return now }, budgets: map[string]*rate.Limiter{}}
	newSet := func(namespace string) *v1alpha1.OfficialImageSet {
		return &v1alpha1.OfficialImageSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "official", UID: types.UID(namespace)}}
	}
	const image = "docker.io/library/alpine:1"
	d := digest.FromString("x").String()
	ensure := func(set *v1alpha1.OfficialImageSet) (made bool, i *resolution) {
		t.Helper()
		i = &resolution{digest: d}
		if _, err := r.ensure(t.Context(), set, nil, image, i); err != nil {
			t.Fatal(err)
		}
		err := c.Get(t.Context(), client.ObjectKey{Namespace: set.Namespace, Name: objects.ArtifactName(image, d)}, new(v1alpha1.Artifact))
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return !apierrors.IsNotFound(err), i
	}
	greedy, other := newSet("greedy"), newSet("other")
	for n := range makeBurst {
		if !r.mayMake(greedy.Namespace) {
			t.Fatalf("the first %d are not made at once", n)
		}
	}
	if made, i := ensure(greedy); made || i.failure == nil || i.failure.Reason != v1alpha1.ReasonTooManyArtifacts {
		t.Errorf("one more is made: %v; %+v", made, i.failure)
	}
	if made, i := ensure(other); !made || i.failure != nil {
		t.Errorf("that of another namespace is made: %v; %+v", made, i.failure)
	}
	now = now.Add(makeRefill)
	if made, i := ensure(greedy); !made || i.failure != nil {
		t.Errorf("after a while it is made: %v; %+v", made, i.failure)
	}
	now = now.Add(makeBurst * makeRefill)
	r.mayMake("third")
	if len(r.budgets) != 1 {
		t.Errorf("%d namespaces are remembered", len(r.budgets))
	}
}
