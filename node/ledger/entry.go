package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// MaxEntrySize is the largest entry in bytes: tlog-tiles gives its length
	// 16 bits.
	MaxEntrySize = 1<<16 - 1
	// TypeAddArtifact records that the publisher copied an image.
	TypeAddArtifact = "AddArtifact"
	// addArtifactVersions is the newest version of AddArtifact.
	addArtifactVersions = 2
	// MaxPlatforms bounds an entry: official images have about a dozen.
	MaxPlatforms = 128
)

// ErrUnknownEntry is returned for an entry of a type or version that this
// program does not know. Such an entry is part of the ledger like any other,
// but says nothing that this program could act on.
var ErrUnknownEntry = errors.New("unknown entry type or version")

// AddArtifact is the entry that records one image. Its encoding is JSON with
// exactly these members in this order, without white space, and any other
// encoding of it is refused, so that equal content has one leaf hash.
//
// Version 1 says that the registry's tag pointed to the digest when the block
// was made. Version 2 says that it did not, and has one more member that tells
// why the block was made: SeenAt or Pinned. Programs that know version 1 alone
// do not index version 2, so they never take one for the other.
type AddArtifact struct {
	Type    string `json:"type"`    // TypeAddArtifact
	Version int    `json:"version"` // 1 or 2
	// Artifact is the canonical image name: "docker.io/library/alpine:3.20".
	Artifact string `json:"artifact"`
	// Digest, MediaType and Size (bytes) describe the top manifest or index.
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	// Platforms are the images that the artifact holds, one per platform.
	Platforms []Platform `json:"platforms"`
	// Pieces is the digest of the artifact's piece list: each blob with the
	// SHA-256 of each of its pieces.
	Pieces digest.Digest `json:"pieces"`
	// Upstream is the registry it was copied from: "registry-1.docker.io".
	Upstream string `json:"upstream"`
	// SeenAt (version 2) is when the publisher last saw the tag point to the
	// digest at the upstream: RFC 3339, UTC, whole seconds.
	SeenAt time.Time `json:"seenAt,omitzero"`
	// Pinned (version 2) is true where the tag is the publisher's own assertion:
	// the upstream's tag pointed elsewhere, or there was none.
	Pinned bool `json:"pinned,omitempty"`
	// Time is when the publisher recorded it: RFC 3339, UTC, whole seconds.
	Time time.Time `json:"time"`
}

// Exception says why the block was made although the registry's tag pointed
// elsewhere, for people to read after "block 7, "; it is empty if the tag
// pointed to the digest.
func (e *AddArtifact) Exception() string {
	switch {
	case e.Pinned:
		return "which says that the tag is pinned: it is the publisher's word, not the registry's"
	case !e.SeenAt.IsZero():
		return "which says that the tag was seen there at " + e.SeenAt.Format(time.RFC3339) + ", and had moved"
	}
	return ""
}

// Platform is one platform's image.
type Platform struct {
	Platform string        `json:"platform"` // "linux/arm64/v8"
	Digest   digest.Digest `json:"digest"`   // of its manifest
	Config   digest.Digest `json:"config"`   // of its config: the image ID
	Size     int64         `json:"size"`     // config and layers, bytes
}

// UnknownPlatform is how indexes mark what is not to be run: attestations.
const UnknownPlatform = "unknown/unknown"

// Images are the platforms that can be run, without the attestations of them.
func (e *AddArtifact) Images() (out []Platform) {
	for _, p := range e.Platforms {
		if p.Platform != UnknownPlatform || p.Digest == e.Digest { // without an index there are none
			out = append(out, p)
		}
	}
	return out
}

// body is the content of an entry.
type body interface{ validate() error }

// Marshal encodes the entry.
func (e *AddArtifact) Marshal() ([]byte, error) { return marshal(e) }

func marshal(e body) ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	data, err := encode(e)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxEntrySize {
		return nil, fmt.Errorf("entry of %d bytes: at most %d", len(data), MaxEntrySize)
	}
	return data, nil
}

func encode(e body) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encoding an entry: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ParseEntry decodes and checks an AddArtifact entry.
func ParseEntry(data []byte) (*AddArtifact, error) {
	e := new(AddArtifact)
	if len(data) <= MaxEntrySize && e.decode(data) {
		if err := e.validate(); err != nil {
			return nil, fmt.Errorf("entry: %w", err)
		}
		return e, nil
	}
	*e = AddArtifact{}
	return e, parse(data, TypeAddArtifact, addArtifactVersions, e)
}

var errNotCanonical = errors.New("entry: not in the canonical encoding")

// checkKind tells what is wrong with an entry that does not begin like one of
// a type, of version 1 to newest: it is another one, or not canonical.
func checkKind(data []byte, kind string, newest int) error {
	var head struct {
		Type    string `json:"type"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	if head.Type != kind || head.Version < 1 || head.Version > newest {
		return fmt.Errorf("%w: %.40q version %d", ErrUnknownEntry, head.Type, head.Version)
	}
	return errNotCanonical
}

// parse decodes an entry of a type, of version 1 to newest (below 10), whose
// encoding must be the canonical one.
func parse(data []byte, kind string, newest int, e body) error {
	if len(data) > MaxEntrySize {
		return fmt.Errorf("entry of %d bytes: at most %d", len(data), MaxEntrySize)
	}
	rest, ok := bytes.CutPrefix(data, []byte(`{"type":"`+kind+`","version":`))
	if !ok || len(rest) < 2 || rest[0] < '1' || int(rest[0]-'0') > newest || rest[1] != ',' {
		return checkKind(data, kind, newest)
	}
	if err := json.Unmarshal(data, e); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	if err := e.validate(); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	canonical, err := encode(e)
	if err != nil {
		return err
	}
	if !bytes.Equal(canonical, data) {
		return errNotCanonical
	}
	return nil
}

func (e *AddArtifact) validate() error {
	if err := e.checkVersion(); err != nil {
		return err
	}
	if err := checkArtifact(e.Artifact, e.Digest, e.Time); err != nil {
		return err
	}
	if err := CheckDigest(e.Pieces); err != nil {
		return fmt.Errorf("pieces: %w", err)
	}
	if e.Size <= 0 {
		return fmt.Errorf("size %d", e.Size)
	}
	if e.MediaType == "" || e.Upstream == "" {
		return errors.New("mediaType and upstream must be there")
	}
	if len(e.Platforms) == 0 || len(e.Platforms) > MaxPlatforms {
		return fmt.Errorf("%d platforms: between 1 and %d", len(e.Platforms), MaxPlatforms)
	}
	for _, p := range e.Platforms {
		if p.Platform == "" || p.Size < 0 {
			return fmt.Errorf("platform %q of %d bytes", p.Platform, p.Size)
		}
		if err := errors.Join(CheckDigest(p.Digest), CheckDigest(p.Config)); err != nil {
			return fmt.Errorf("platform %q: %w", p.Platform, err)
		}
	}
	return nil
}

// checkVersion checks that version 1 has neither SeenAt nor Pinned, and version
// 2 exactly one of them.
func (e *AddArtifact) checkVersion() error {
	seen := !e.SeenAt.IsZero()
	switch {
	case e.Type != TypeAddArtifact || e.Version < 1 || e.Version > addArtifactVersions:
		return fmt.Errorf("type %q version %d", e.Type, e.Version)
	case e.Version == 1 && (seen || e.Pinned):
		return errors.New("seenAt and pinned are members of version 2")
	case e.Version == 2 && seen == e.Pinned:
		return errors.New("version 2 has either seenAt or pinned")
	case !seen:
		return nil
	case e.SeenAt.After(e.Time):
		return fmt.Errorf("seenAt %s is after time", e.SeenAt.Format(time.RFC3339Nano))
	}
	return checkTime(e.SeenAt)
}

// checkArtifact checks what all entries about an image have.
func checkArtifact(artifact string, d digest.Digest, at time.Time) error {
	if !isCanonical(artifact) {
		image, err := parseName(artifact)
		if err != nil {
			return err
		}
		if image.String() != artifact {
			return fmt.Errorf("artifact %q: the canonical name is %q", artifact, image)
		}
	}
	return errors.Join(checkTime(at), CheckDigest(d))
}

func checkTime(at time.Time) error {
	if at.IsZero() || at.Location() != time.UTC || at.Nanosecond() != 0 {
		return fmt.Errorf("time %s: want whole seconds in UTC", at.Format(time.RFC3339Nano))
	}
	return nil
}

// Names tells whether the entry names a digest: of the artifact, a platform's
// manifest, an image ID or the piece list.
func (e *AddArtifact) Names(d digest.Digest) bool {
	return e.Digest == d || e.Pieces == d ||
		slices.ContainsFunc(e.Platforms, func(p Platform) bool { return p.Digest == d || p.Config == d })
}

// Digests are those that the entry names.
func (e *AddArtifact) Digests() []digest.Digest {
	out := []digest.Digest{e.Digest, e.Pieces}
	for _, p := range e.Platforms {
		out = append(out, p.Digest, p.Config)
	}
	return out
}

// Includes tells whether the entry is about the digest of another one, and has
// all of its platforms.
func (e *AddArtifact) Includes(o *AddArtifact) bool {
	return e.Digest == o.Digest && !slices.ContainsFunc(o.Platforms, func(p Platform) bool { return !e.HasManifest(p.Digest) })
}

// HasManifest tells whether a digest is that of the artifact or of a platform's
// manifest: of what a client can pull as an image.
func (e *AddArtifact) HasManifest(d digest.Digest) bool {
	return e.Digest == d || slices.ContainsFunc(e.Platforms, func(p Platform) bool { return p.Digest == d })
}

// CheckDigest accepts SHA-256 digests alone: the one algorithm that every
// registry and client speaks, and the one that pieces use.
func CheckDigest(d digest.Digest) error {
	if isSHA256(string(d)) {
		return nil
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.80q: %w", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: only sha256 is supported", d)
	}
	return nil
}

// isSHA256 is quicker than the general check.
func isSHA256(d string) bool {
	digits, ok := strings.CutPrefix(d, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}
