package replica

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// seenAt makes an entry one of version 2: the tag has moved since.
func seenAt(e *ledger.AddArtifact) *ledger.AddArtifact {
	e.Version, e.SeenAt = 2, e.Time.Add(-time.Hour)
	return e
}

// pinned makes an entry one of version 2: no registry said it.
func pinned(e *ledger.AddArtifact) *ledger.AddArtifact {
	e.Version, e.Pinned = 2, true
	return e
}

// Blocks of version 2 are found, followed and proven like those of version 1.
func TestVersion2IsIndexedFollowedAndProven(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	second, err := p.Append(t.Context(), seenAt(artifact(alpine, "two")))
	if err != nil {
		t.Fatal(err)
	}
	third, err := p.Append(t.Context(), pinned(artifact("docker.io/library/alpine:3.21", "three")))
	if err != nil {
		t.Fatal(err)
	}
	image, err := ledger.ParseImage(alpine)
	if err != nil {
		t.Fatal(err)
	}
	f := newFollower(t, p.vkey)
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	check := func(name string, l *Ledger) {
		t.Helper()
		latest, err := l.Latest(t.Context(), image)
		if err != nil || latest.Height != second || latest.Artifact.SeenAt.IsZero() {
			t.Errorf("%s: latest %+v, %v", name, latest, err)
		}
		found, err := l.ByDigest(t.Context(), digest.FromString("three/c"), 1)
		if err != nil || len(found) != 1 || found[0].Height != third || !found[0].Artifact.Pinned {
			t.Errorf("%s: by digest %+v, %v", name, found, err)
		}
		e, proof, err := l.Block(t.Context(), third)
		if err != nil {
			t.Fatal(err)
		}
		v, err := ledger.NewVerifier(p.vkey)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := ledger.VerifyBlock(v, e.Data, proof); err != nil || !b.Artifact.Pinned {
			t.Errorf("%s: proven %+v, %v", name, b, err)
		}
	}
	check("publisher", p.Ledger)
	check("follower", f.Ledger)
}

// What was seen before the tag's newest block says nothing about the tag now.
func TestAppendIsRefusedWhereTheTagWentOn(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	seen := p.Size()
	second := p.mustAppend(t, alpine, "two")
	if _, err := p.AppendAfter(t.Context(), artifact(alpine, "three"), seen); !errors.Is(err, ErrSuperseded) {
		t.Errorf("seen before block %d: %v", second, err)
	}
	if height, err := p.AppendAfter(t.Context(), artifact(alpine, "two"), seen); err != nil || height != second {
		t.Errorf("the newest block's own digest: block %d, %v", height, err)
	}
	if height, err := p.AppendAfter(t.Context(), artifact(alpine, "three"), p.Size()); err != nil || height != second+1 {
		t.Errorf("seen after it: block %d, %v", height, err)
	}
	if height, err := p.AppendAfter(t.Context(), artifact("docker.io/library/other:1", "x"), 0); err != nil || height != second+2 {
		t.Errorf("an image without a block: block %d, %v", height, err)
	}
}
