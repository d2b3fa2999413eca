package objects

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ArtifactName is REPOSITORY-TAG-DIGEST12, as a DNS-1123 subdomain. A name
// that had to be changed for that gets a hash, so that it stays unique.
func ArtifactName(image, digest string) string {
	parsed, err := ledger.ParseImage(image)
	if err != nil {
		parsed.Repository = image
	}
	repository := parsed.Repository
	if parsed.Registry == "docker.io" {
		repository = strings.TrimPrefix(repository, "library/")
	} else {
		repository = parsed.Registry + "/" + repository
	}
	plain := strings.ReplaceAll(repository, "/", "-") + "-" + parsed.Tag
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			return c
		}
		return '-'
	}, strings.ToLower(plain))
	for _, pair := range [][2]string{{"..", "."}, {".-", "-"}, {"-.", "-"}} {
		for strings.Contains(name, pair[0]) {
			name = strings.ReplaceAll(name, pair[0], pair[1])
		}
	}
	const limit = 180 // bytes; a digest, and a node's name of at most 40 bytes, follow
	if name != plain || len(name) > limit {
		sum := sha256.Sum256([]byte(image))
		name = fmt.Sprintf("%s-%x", strings.Trim(name[:min(len(name), limit)], "-."), sum[:4])
	}
	return fmt.Sprintf("%s-%.12s", strings.Trim(name, "-."), strings.TrimPrefix(digest, "sha256:"))
}

// WithdrawalOf is the block by which an Artifact has withdrawn its digest, or
// restored it; nil if it has done neither.
func WithdrawalOf(art *v1alpha1.Artifact) (b *v1alpha1.Block, revoked bool) {
	switch {
	case art.Spec.State == v1alpha1.StateRevoked && status.IsTrue(art, v1alpha1.ConditionRevoked):
		return art.Status.Revocation, true
	case art.Spec.State == v1alpha1.StateRestored && status.IsTrue(art, v1alpha1.ConditionRestored):
		return art.Status.Restoration, false
	}
	return nil, false
}

// KnownBlock is the height of an Artifact's block; -1 if it has none.
func KnownBlock(art *v1alpha1.Artifact) int64 {
	if art.Status.Block == nil {
		return -1
	}
	return art.Status.Block.Height
}

// Alike tells whether two Artifacts have the same name, and publish or look up
// the same.
func Alike(a, b *v1alpha1.Artifact) bool {
	return a.Name == b.Name && a.Spec.Image == b.Spec.Image && a.Spec.Digest == b.Spec.Digest &&
		a.Spec.PublisherRef == b.Spec.PublisherRef && a.Spec.NodeRef == b.Spec.NodeRef && SamePlatforms(a.Spec.Platforms, b.Spec.Platforms)
}

// SamePlatforms compares platforms whatever their order.
func SamePlatforms(a, b []string) bool {
	return slices.Equal(a, b) || slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// IsLeaving tells whether an Artifact is being deleted: a finalizer may keep it
// for as long as somebody likes.
func IsLeaving(art *v1alpha1.Artifact) bool { return !art.DeletionTimestamp.IsZero() }
