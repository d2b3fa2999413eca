package replica

import (
	"slices"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A block of version 0.1.0 that names Docker Hub by its host is found under
// Docker Hub's name.
func TestBlocksUnderAnotherNameOfTheirRegistryAreFound(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, "registry-1.docker.io/library/alpine:3.20", "one")
	image, err := ledger.ParseImage(alpine)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := p.Latest(t.Context(), image); err != nil || e.Height != 0 {
		t.Errorf("newest block: %+v, %v", e, err)
	}
	if tags, err := p.Tags(t.Context(), "docker.io/library/alpine", "", 10); err != nil || !slices.Equal(tags, []string{"3.20"}) {
		t.Errorf("tags: %v, %v", tags, err)
	}
}
