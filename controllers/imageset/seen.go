package imageset

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// seenTags are the digests to which a set's tags resolved when this process
// last had the publisher resolve them. They are never read from an object: any
// creator of an Artifact can name any set as its owner.
type seenTags struct {
	mu      sync.Mutex // guards digests
	digests map[string]string
}

func (s *seenTags) note(image, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.digests == nil {
		s.digests = map[string]string{}
	}
	s.digests[image] = digest
}

func (s *seenTags) forget(image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.digests, image)
}

func (s *seenTags) has(image, digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digests[image] == digest
}

// Saw tells whether a set that owns an Artifact saw its tag at its digest when
// it resolved the tag last.
func (r *Reconciler) Saw(art *v1alpha1.Artifact) bool {
	return slices.ContainsFunc(setOwners(art), func(set string) bool {
		r.mu.Lock()
		p := r.passes[types.NamespacedName{Namespace: art.Namespace, Name: set}]
		r.mu.Unlock()
		return p != nil && hasOwner(art, p.uid) && p.seen.has(art.Spec.Image, art.Spec.Digest)
	})
}
