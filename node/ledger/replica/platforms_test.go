package replica

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// withPlatforms is an artifact with these platforms and a piece list of its own.
func withPlatforms(image, content string, platforms ...string) *ledger.AddArtifact {
	a := artifact(image, content)
	a.Platforms, a.Pieces = nil, digest.FromString(content+"/p")
	for _, p := range platforms {
		a.Platforms = append(a.Platforms, ledger.Platform{Platform: p, Digest: digest.FromString(content + p), Config: digest.FromString(content + p + "/c"), Size: 7})
		a.Pieces = digest.FromString(string(a.Pieces) + p)
	}
	return a
}

// A further block of a digest has what the one before it has, and more. What was
// withdrawn counts for nothing.
func TestFurtherBlocksTakeNoPlatformsAway(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	add := func(e *ledger.AddArtifact) (int64, error) { return p.AppendAfter(t.Context(), e, p.Size()) }
	appended := func(platforms ...string) {
		t.Helper()
		want := p.Size()
		if height, err := add(withPlatforms(alpine, "one", platforms...)); err != nil || height != want {
			t.Fatalf("%v: block %d, %v, want %d", platforms, height, err, want)
		}
	}
	appended("linux/s390x")
	for name, f := range map[string]func(e *ledger.AddArtifact) (int64, error){
		"Append":      func(e *ledger.AddArtifact) (int64, error) { return p.Append(t.Context(), e) },
		"AppendAfter": add,
		"AppendMore":  func(e *ledger.AddArtifact) (int64, error) { return p.AppendMore(t.Context(), e) },
	} {
		if height, err := f(withPlatforms(alpine, "one", "linux/amd64")); !errors.Is(err, ErrSuperseded) {
			t.Errorf("%s of another platform alone: block %d, %v", name, height, err)
		}
	}
	appended("linux/amd64", "linux/s390x")
	if height, err := add(withPlatforms(alpine, "one", "linux/amd64")); err != nil || height != 1 {
		t.Errorf("one of the platforms: block %d, %v, want 1", height, err)
	}
	more := withPlatforms(alpine, "one", "linux/amd64", "linux/s390x")
	more.Pieces = digest.FromString("with an sbom")
	if height, err := p.AppendMore(t.Context(), more); err != nil || height != 2 {
		t.Errorf("another piece list: block %d, %v, want 2", height, err)
	}
	f := newFollower(t, p.vkey)
	if _, err := f.Sync(t.Context(), serve(t, p.Ledger)); err != nil {
		t.Fatal(err)
	}
	for platform, block := range map[string]int64{"linux/amd64": 2, "linux/s390x": 2} {
		found, err := f.ByDigest(t.Context(), digest.FromString("one"+platform), 1)
		if err != nil || len(found) != 1 || found[0].Height != block {
			t.Errorf("%s: %+v, %v, want block %d", platform, found, err, block)
		}
	}
	if _, err := p.RevokeDigest(t.Context(), more.Repository(), more.Digest, "bad", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RestoreArtifact(t.Context(), more.Repository(), more.Digest, "fine", time.Now()); err != nil {
		t.Fatal(err)
	}
	appended("linux/arm64")
}
