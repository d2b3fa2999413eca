package ledger

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// maxImageLen bounds an image name: repository names end at 255 bytes, tags
// at 128 (OCI distribution-spec, "Pulling manifests").
const maxImageLen = 512

// Image is the full name of an image: registry, repository and tag.
type Image struct {
	Registry   string // "docker.io"
	Repository string // "library/alpine"
	Tag        string // "3.20"
}

// ParseImage reads an image name as container clients do: "alpine" is
// docker.io/library/alpine:latest. A registry that has several names has the
// one that CanonicalRegistry gives. A name with a digest is refused: on the
// ledger the digest stands beside the name.
func ParseImage(s string) (Image, error) {
	host, rest, ok := strings.Cut(s, "/")
	if ok && host != dockerHub && isHost(host) {
		registry, err := CanonicalRegistry(host)
		if err != nil {
			return Image{}, fmt.Errorf("image name %.80q: %w", s, err)
		}
		s = registry + "/" + rest
	}
	return parseName(s)
}

// parseName is ParseImage for a name as it stands in a block: version 0.1.0
// wrote registries as it was told.
func parseName(s string) (Image, error) {
	if len(s) > maxImageLen {
		return Image{}, fmt.Errorf("image name of %d bytes: at most %d", len(s), maxImageLen)
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Image{}, fmt.Errorf("image name %q: %w", s, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return Image{}, fmt.Errorf("image name %q: give a tag, not a digest", s)
	}
	tagged := reference.TagNameOnly(named).(reference.NamedTagged)
	return Image{Registry: reference.Domain(tagged), Repository: reference.Path(tagged), Tag: tagged.Tag()}, nil
}

// Name is the image without its tag: "docker.io/library/alpine".
func (i Image) Name() string { return i.Registry + "/" + i.Repository }

// String is the canonical form: "docker.io/library/alpine:3.20".
func (i Image) String() string { return i.Name() + ":" + i.Tag }

// isCanonical tells of most canonical names that they are such, without the
// regular expressions by which ParseImage finds it out: those of Docker Hub
// whose words have single separators.
func isCanonical(s string) bool {
	path, ok := strings.CutPrefix(s, "docker.io/")
	path, tag, tagged := strings.Cut(path, ":")
	if !ok || !tagged || len(s) > 255 || !strings.Contains(path, "/") || tag == "" || len(tag) > 128 || tag[0] == '.' || tag[0] == '-' {
		return false
	}
	word := false // the byte before is of a word
	for i := range len(path) {
		c := path[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			word = true
		case word && (c == '/' || c == '.' || c == '-' || c == '_'):
			word = false
		default:
			return false
		}
	}
	for i := range len(tag) {
		c := tag[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return word
}
