package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// seenAt makes an entry one of version 2: the tag has moved since.
func seenAt(e *AddArtifact) *AddArtifact {
	e.Version, e.SeenAt = 2, e.Time.Add(-time.Hour)
	return e
}

// pinned makes an entry one of version 2: no registry said it.
func pinned(e *AddArtifact) *AddArtifact {
	e.Version, e.Pinned = 2, true
	return e
}

// The encoding of each version, byte by byte: it is what proofs are about.
func TestEntryEncoding(t *testing.T) {
	base := artifact(alpine, "x")
	v1, err := base.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const end = `,"upstream":"registry.example","time":"2026-01-02T03:04:05Z"}`
	if !strings.HasPrefix(string(v1), `{"type":"AddArtifact","version":1,"artifact":`) || !strings.HasSuffix(string(v1), end) {
		t.Errorf("version 1 is not what v0.1.0 wrote: %s", v1)
	}
	as2 := func(more string) string {
		s := strings.Replace(string(v1), `"version":1`, `"version":2`, 1)
		return strings.TrimSuffix(s, end) + `,"upstream":"registry.example"` + more + `,"time":"2026-01-02T03:04:05Z"}`
	}
	for want, e := range map[string]*AddArtifact{
		as2(`,"seenAt":"2026-01-02T02:04:05Z"`): seenAt(artifact(alpine, "x")),
		as2(`,"pinned":true`):                   pinned(artifact(alpine, "x")),
	} {
		data, err := e.Marshal()
		if err != nil || string(data) != want {
			t.Errorf("encoded as %s, %v, want %s", data, err, want)
		}
		got, err := ParseEntry([]byte(want))
		if err != nil || !cmp.Equal(got, e) {
			t.Errorf("%s is read as %+v, %v", want, got, err)
		}
		// v0.1.0 takes it for a block that it does not know and does not index. It
		// never takes it for version 1.
		if err := parse([]byte(want), TypeAddArtifact, 1, new(AddArtifact)); !errors.Is(err, ErrUnknownEntry) {
			t.Errorf("a program that knows version 1 alone: %v", err)
		}
		if quick := new(AddArtifact); !quick.decode([]byte(want)) {
			t.Errorf("the quick reader does not know %s", want)
		}
	}
	for name, data := range map[string]string{
		"version 1 with seenAt":     strings.Replace(as2(`,"seenAt":"2026-01-02T02:04:05Z"`), `"version":2`, `"version":1`, 1),
		"version 1 with pinned":     strings.Replace(as2(`,"pinned":true`), `"version":2`, `"version":1`, 1),
		"version 2 with neither":    as2(``),
		"version 2 with both":       as2(`,"seenAt":"2026-01-02T02:04:05Z","pinned":true`),
		"pinned is false":           as2(`,"pinned":false`),
		"seen after it was written": as2(`,"seenAt":"2026-01-02T03:04:06Z"`),
		"seen at part of a second":  as2(`,"seenAt":"2026-01-02T02:04:05.5Z"`),
		"seen in another zone":      as2(`,"seenAt":"2026-01-02T02:04:05+01:00"`),
		"pinned twice":              as2(`,"pinned":true,"pinned":true`),
		"another order":             strings.Replace(as2(`,"pinned":true`), `,"upstream":"registry.example","pinned":true`, `,"pinned":true,"upstream":"registry.example"`, 1),
	} {
		if e, err := ParseEntry([]byte(data)); err == nil || errors.Is(err, ErrUnknownEntry) {
			t.Errorf("%s: %+v, %v, want a refusal", name, e, err)
		}
	}
	if _, err := ParseEntry([]byte(strings.Replace(as2(``), `"version":2`, `"version":3`, 1))); !errors.Is(err, ErrUnknownEntry) {
		t.Errorf("version 3: %v, want an unknown entry", err)
	}
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
	image, err := ParseImage(alpine)
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
		v, err := NewVerifier(p.vkey)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := VerifyBlock(v, e.Data, proof); err != nil || !b.Artifact.Pinned {
			t.Errorf("%s: proven %+v, %v", name, b, err)
		}
	}
	check("publisher", p.Ledger)
	check("follower", f.Ledger)
}

// A segment that a program wrote which did not know version 2 lacks its blocks:
// it is made again.
func TestAnEarlierProgramsIndexIsMadeAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "000000000000-000000000001.seg")
	tail := newTail(0)
	tail.offsets, tail.leaves = []uint32{0}, make([]byte, 32)
	s, err := writeSegment(filepath.Dir(file), tail, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(data, "pyrsia index 2")
	sum := segmentSum(data)
	copy(data[segmentHeader:], sum[:])
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := openIndex(filepath.Dir(file), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	if _, err := os.Stat(file); x.blocks() != 0 || !os.IsNotExist(err) {
		t.Errorf("%d blocks are taken from it, stat: %v", x.blocks(), err)
	}
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
