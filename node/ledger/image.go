package ledger

import (
	"fmt"

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
// docker.io/library/alpine:latest. A name with a digest is refused: on the
// ledger the digest stands beside the name.
func ParseImage(s string) (Image, error) {
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
