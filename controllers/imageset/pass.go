package imageset

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

const (
	// resolveBatch is how many tags of a set are resolved before its status is written.
	resolveBatch = 256
	// retryMax is how long an image that failed is left alone at most.
	retryMax = 5 * time.Minute
)

// pass is what this process remembers of a set between reconciliations. All of
// it can be lost: Artifacts and the set's status tell enough to begin again.
type pass struct {
	uid     types.UID
	held    int       // images that were admitted; the reconciler's mu guards it
	began   time.Time // of the pass that runs, or ran last
	running bool
	images  map[string]*resolution
	seen    seenTags // of images; has its own lock

	wanted       []string                // as it was listed
	problems     []v1alpha1.ImageFailure // what could not be listed
	listedAt     time.Time
	listedOf     int64 // the generation of the spec; 0: not yet
	listFailures int

	rateLimit *v1alpha1.RateLimit // as the publisher told last
	speed     speed
}

// resolution is the last answer for one image.
type resolution struct {
	at       time.Time // the pass in which it was last resolved; zero: not yet
	digest   string
	moved    bool // back to a digest that is on the ledger, but not its newest
	failures int
	retryAt  time.Time
	failure  *v1alpha1.ImageFailure
}

// passOf is the set's memory.
func (r *Reconciler) passOf(set *v1alpha1.OfficialImageSet) *pass {
	key := types.NamespacedName{Namespace: set.Namespace, Name: set.Name}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.passes[key]
	if p == nil || p.uid != set.UID {
		p = &pass{uid: set.UID, images: map[string]*resolution{}}
		r.passes[key] = p
	}
	return p
}

// want brings the images in line with those that were listed.
func (p *pass) want(set *v1alpha1.OfficialImageSet, have map[string][]*v1alpha1.Artifact) {
	wanted := make(map[string]bool, len(p.wanted))
	for _, image := range p.wanted {
		wanted[image] = true
		if p.images[image] == nil {
			p.images[image] = remembered(set, image, have[image])
		}
	}
	for image := range p.images {
		if !wanted[image] {
			delete(p.images, image)
			p.seen.forget(image)
		}
	}
}

// remembered is what is known of an image after a restart of the operator. The
// newest Artifact has the tag's digest, unless an older one has a newer block:
// then another creator may have made it, and the tag is resolved again.
func remembered(set *v1alpha1.OfficialImageSet, image string, have []*v1alpha1.Artifact) *resolution {
	i := &resolution{}
	if len(have) > 0 && set.Status.LastResolvedTime != nil && !slices.ContainsFunc(have[1:], func(a *v1alpha1.Artifact) bool { return objects.KnownBlock(a) > objects.KnownBlock(have[0]) }) {
		i.at, i.digest = set.Status.LastResolvedTime.Time, have[0].Spec.Digest
	}
	if len(have) > 0 && artifactFailure(have[0]) != nil {
		return i // what status.failures tells of it is the Artifact's failure
	}
	for n := range set.Status.Failures {
		if set.Status.Failures[n].Image == image {
			i.failure = set.Status.Failures[n].DeepCopy()
		}
	}
	return i
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.passes, key)
}

// dueAt is when an image is to be resolved next.
func (i *resolution) dueAt(interval time.Duration) time.Time {
	switch {
	case i.failure != nil:
		return i.retryAt
	case i.at.IsZero():
		return i.at
	}
	return i.at.Add(interval)
}

// due chooses at most limit images to resolve now, those that have waited
// longest first, and tells when the next one is due.
func (p *pass) due(now time.Time, interval time.Duration, limit int) (images []string, next time.Time) {
	for image := range p.images {
		images = append(images, image)
	}
	slices.SortFunc(images, func(a, b string) int {
		return cmp.Or(p.images[a].dueAt(interval).Compare(p.images[b].dueAt(interval)), cmp.Compare(a, b))
	})
	for n, image := range images {
		if at := p.images[image].dueAt(interval); at.After(now) || n == limit {
			return images[:n], at
		}
	}
	return images, time.Time{}
}

// backoff is how long to wait after so many failures of an image.
func backoff(failures int) time.Duration {
	return min(nodeclient.RetryFirst<<min(failures-1, 16), retryMax)
}
