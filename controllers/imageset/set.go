package imageset

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

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

// imageSet is an OfficialImageSet with all that is known of it. The worker that
// reconciles it owns it; others read no more than what Reconciler.mu guards. What is
// remembered from one reconciliation to the next can be lost: Artifacts and the set's
// status tell enough to begin again.
type imageSet struct {
	round
	uid types.UID

	images  map[string]*resolution // that the set holds
	began   time.Time              // of the pass over all images that runs, or ran last
	running bool                   // the pass

	wanted       []string                // as it was listed
	problems     []v1alpha1.ImageFailure // what could not be listed
	listedAt     time.Time
	listedOf     int64 // the generation of the spec; 0: not yet
	listFailures int

	rateLimit *v1alpha1.RateLimit // as the publisher told last
	speed     speed

	// Reconciler.mu guards what follows.
	held int               // images that were admitted
	seen map[string]string // the digest of each image when the publisher resolved it last
}

// round is what one reconciliation reads, finds out and writes: the set's object with
// its status too. It is let go at the end.
type round struct {
	*v1alpha1.OfficialImageSet
	before   *v1alpha1.OfficialImageSet      // as it was read
	have     map[string][]*v1alpha1.Artifact // the set's Artifacts that stay, by image, newest first; read only
	blocks   int32                           // of them
	bytes    int64
	planned  bool // images are what the set holds
	notAsked bool // the publisher: Resolved says why
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

// begin is what is known of a set that is reconciled now.
func (r *Reconciler) begin(set *v1alpha1.OfficialImageSet) *imageSet {
	key := client.ObjectKeyFromObject(set)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sets[key]
	if s == nil || s.uid != set.UID {
		s = &imageSet{uid: set.UID, images: map[string]*resolution{}, seen: map[string]string{}}
		r.sets[key] = s
	}
	s.round = round{OfficialImageSet: set, before: set.DeepCopy()}
	return s
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sets, key)
}

// Saw tells whether a set that owns an Artifact saw its tag at its digest when it
// resolved the tag last. That is never read from an object: any creator of an Artifact
// can name any set as its owner.
func (r *Reconciler) Saw(art *v1alpha1.Artifact) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(setOwners(art), func(name string) bool {
		s := r.sets[types.NamespacedName{Namespace: art.Namespace, Name: name}]
		return s != nil && hasOwner(art, s.uid) && s.seen[art.Spec.Image] == art.Spec.Digest
	})
}

// want brings the images in line with those that were listed.
func (r *Reconciler) want(s *imageSet) {
	wanted := make(map[string]bool, len(s.wanted))
	for _, image := range s.wanted {
		wanted[image] = true
		if s.images[image] == nil {
			s.images[image] = remembered(s.OfficialImageSet, image, s.have[image])
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for image := range s.images {
		if !wanted[image] {
			delete(s.images, image)
			delete(s.seen, image)
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
func (s *imageSet) due(now time.Time, interval time.Duration, limit int) (images []string, next time.Time) {
	for image := range s.images {
		images = append(images, image)
	}
	slices.SortFunc(images, func(a, b string) int {
		return cmp.Or(s.images[a].dueAt(interval).Compare(s.images[b].dueAt(interval)), cmp.Compare(a, b))
	})
	for n, image := range images {
		if at := s.images[image].dueAt(interval); at.After(now) || n == limit {
			return images[:n], at
		}
	}
	return images, time.Time{}
}

// backoff is how long to wait after so many failures of an image.
func backoff(failures int) time.Duration {
	return min(nodeclient.RetryFirst<<min(failures-1, 16), retryMax)
}
