package imageset

import (
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// What a tag points to is the publisher's word, and a hostile one could name
// another digest for each tag in each pass: Artifacts would be created and
// deleted as fast as the API server can.

const (
	// makeBurst and makeRefill bound the Artifacts that the sets of one namespace
	// make: a burst of two of the largest sets, and then one per makeRefill.
	makeBurst  = 2 * control.MaxImages
	makeRefill = 100 * time.Millisecond
)

// mayMake takes an Artifact from what a namespace's sets may make now.
func (r *Reconciler) mayMake(namespace string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	budget := r.budgets[namespace]
	if budget == nil {
		for other, b := range r.budgets {
			if b.TokensAt(now) >= makeBurst { // as a new one would be
				delete(r.budgets, other)
			}
		}
		budget = rate.NewLimiter(rate.Every(makeRefill), makeBurst)
		r.budgets[namespace] = budget
	}
	return budget.AllowN(now, 1)
}

// tooMany keeps the failure that the Artifact is made later.
func (i *resolution) tooMany(image string, key types.NamespacedName, now time.Time) {
	i.unmade(image, v1alpha1.ReasonTooManyArtifacts, now,
		"the sets of namespace %s have made %d Artifacts in a short time, and now make one each %s: see whether the publisher of set %s names another digest for each tag every time", key.Namespace, makeBurst, makeRefill, key.Name)
}
