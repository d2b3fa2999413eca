package ledger

import (
	"errors"
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

const alpine = "docker.io/library/alpine:3.20"

func artifact(image, content string) *AddArtifact {
	return &AddArtifact{
		Type: TypeAddArtifact, Version: 1,
		Artifact:  image,
		Digest:    digest.FromString(content),
		MediaType: "application/vnd.oci.image.index.v1+json",
		Size:      100,
		Platforms: []Platform{{Platform: "linux/amd64", Digest: digest.FromString(content + "/m"), Config: digest.FromString(content + "/c"), Size: 7}},
		Pieces:    digest.FromString(content + "/p"),
		Upstream:  "registry.example",
		Time:      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
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
