package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// maxDepth bounds the nesting of a manifest: the specifications need six levels.
const maxDepth = 32

// members are those that any reader of manifests may look for (OCI image-spec,
// "Image Manifest" and "Image Index"; Docker's manifest v2).
var members = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "fsLayers", "blobs",
	"digest", "size", "urls", "data", "platform", "os", "os.version", "os.features", "architecture", "variant", "features",
}

// parseManifest reads a manifest or an index, and refuses what two clients may
// read as two different things. The media type is the document's own, which the
// digest vouches for, before that of a header.
func parseManifest(d digest.Digest, data []byte, header string) (*Manifest, error) {
	if err := checkKeys(data); err != nil {
		return nil, invalid("manifest %s: %w", d, err)
	}
	var own struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(data, &own); err != nil {
		return nil, invalid("manifest %s: %w", d, err)
	}
	index, image := own.Manifests != nil, own.Config != nil || own.Layers != nil || own.FSLayers != nil
	if index && image {
		return nil, invalid("manifest %s: it is both an index and an image's manifest", d)
	}
	said, _, err := mime.ParseMediaType(header)
	if err != nil {
		said, _, _ = strings.Cut(header, ";")
	}
	m := &Manifest{Digest: d, MediaType: own.MediaType, Data: data}
	switch {
	case own.MediaType != "" && isManifest(said) && said != own.MediaType:
		return nil, invalid("manifest %s: it says that it is %.100q, and the registry's Content-Type is %.100q", d, own.MediaType, said)
	case own.MediaType == "" && said != "":
		m.MediaType = said
	case own.MediaType == "" && index: // an OCI manifest may leave it out
		m.MediaType = string(types.OCIImageIndex)
	case own.MediaType == "":
		m.MediaType = string(types.OCIManifestSchema1)
	}
	if kind := types.MediaType(m.MediaType); kind.IsIndex() && image || kind.IsImage() && index {
		return nil, invalid("manifest %s: its content is not of its media type %.100q", d, m.MediaType)
	}
	return m, nil
}

// isManifest tells a media type by which a mirror serves content as a manifest.
func isManifest(mediaType string) bool {
	mediaType = strings.ToLower(mediaType)
	return strings.Contains(mediaType, ".manifest.") || strings.Contains(mediaType, "image.index.")
}

// checkKeys refuses an object with one key twice, and a member's name in other
// letters than the specifications have: some readers take the first, others the
// last, and some do not tell Layers from layers.
func checkKeys(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return checkValue(dec, 0, true)
}

// checkValue reads one value; named tells whether its keys are members of the
// specifications, and not annotations.
func checkValue(dec *json.Decoder, depth int, named bool) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	if depth == maxDepth {
		return errors.New("it is nested too deeply")
	}
	switch token {
	case json.Delim('['):
		for dec.More() {
			if err := checkValue(dec, depth+1, named); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			token, err := dec.Token()
			if err != nil {
				return err
			}
			key, _ := token.(string) // the decoder takes nothing else for a key
			if seen[key] {
				return fmt.Errorf("the key %.100q is there twice", key)
			}
			seen[key] = true
			other := func(member string) bool { return key != member && strings.EqualFold(key, member) }
			if i := slices.IndexFunc(members, other); named && i >= 0 {
				return fmt.Errorf("the key %.100q is no member: it is written %q", key, members[i])
			}
			if err := checkValue(dec, depth+1, named && key != "annotations"); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = dec.Token() // the end
	return err
}
