package publish

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// What was never published has no content to drop: nothing is remembered of it,
// because the creator of Artifacts can name any number of such images.
func TestDropRemembersWhatThereWas(t *testing.T) {
	w := newEnv(t, OnPull{})
	d := w.push("app", "1", "layer")
	w.mustPublish(t, "docker.io/library/app:1")
	for round := range 3 {
		req := control.DropRequest{Artifacts: []control.ArtifactID{{Image: "docker.io/library/app:1", Digest: d.String()}}}
		for n := range control.MaxDrop - 1 {
			req.Artifacts = append(req.Artifacts, control.ArtifactID{Image: fmt.Sprintf("docker.io/library/app%d:%d", round, n), Digest: d.String()})
		}
		if _, err := w.Drop(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := openDropped(w.StateFile); err != nil || len(kept.keys) != 1 {
		t.Errorf("%d images are remembered, of 1 that was dropped: %v", len(kept.keys), err)
	}
}

// Dropped content is deleted unless another image needs it; blocks stay; and
// what is published again is fetched again.
func TestDropFreesWhatNobodyNeeds(t *testing.T) {
	w := newEnv(t, OnPull{})
	one := w.push("one", "1", "shared layer", "layer of one")
	w.push("two", "1", "shared layer", "layer of two")
	block := w.mustPublish(t, "one:1")
	w.mustPublish(t, "two:1")
	id := control.ArtifactID{Image: "docker.io/library/one:1", Digest: one.String()}
	resp, err := w.Drop(t.Context(), control.DropRequest{Artifacts: []control.ArtifactID{id}})
	if err != nil {
		t.Fatal(err)
	}
	// The index, manifest, config, one layer, and the piece list.
	if resp.Blobs != 5 || w.Store.Has(digest.FromString("layer of one")) || !w.Store.Has(digest.FromString("shared layer")) {
		t.Errorf("dropped %+v", resp)
	}
	before := w.registry.Counts().Blobs
	if again := w.mustPublish(t, "one:1"); again.Height != block.Height {
		t.Errorf("published again as block %d, want %d", again.Height, block.Height)
	}
	if fetched := w.registry.Counts().Blobs - before; fetched != 2 || !w.Store.Has(digest.FromString("layer of one")) {
		t.Errorf("%d blobs were fetched again, want 2", fetched)
	}
	if kept, err := openDropped(w.StateFile); err != nil || len(kept.keys) > 0 {
		t.Errorf("still dropped: %v, %v", kept, err)
	}
}
