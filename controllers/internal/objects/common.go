package objects

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// maxCommon bounds the strings of which the cache has one copy for all Artifacts, and
// maxCommonLen each of them, in bytes.
const (
	maxCommon    = 1024
	maxCommonLen = 128
)

// common are the strings that were seen last in Artifacts: thousands of these have the
// same reasons, messages, sets and publishers.
var common = func() *lru.Cache[string, string] {
	c, err := lru.New[string, string](maxCommon)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}()

// shareCommon makes an Artifact share the strings that others have too.
func shareCommon(art *v1alpha1.Artifact) {
	share := func(strings ...*string) {
		for _, s := range strings {
			if len(*s) > maxCommonLen {
				continue
			}
			if same, ok := common.Get(*s); ok {
				*s = same
			} else {
				common.Add(*s, *s)
			}
		}
	}
	share(&art.Kind, &art.APIVersion, &art.Namespace, &art.Spec.PublisherRef.Name, &art.Spec.NodeRef.Name)
	for i := range art.OwnerReferences {
		ref := &art.OwnerReferences[i]
		share(&ref.APIVersion, &ref.Kind, &ref.Name, (*string)(&ref.UID))
	}
	for i := range art.Spec.Platforms {
		share(&art.Spec.Platforms[i])
	}
	for i := range art.Status.Platforms {
		share(&art.Status.Platforms[i])
	}
	for i := range art.Status.Conditions {
		c := &art.Status.Conditions[i]
		share(&c.Type, (*string)(&c.Status), &c.Reason, &c.Message)
	}
}
