package upstreamtest

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The media types of what is generated.
const (
	OCIIndex    = "application/vnd.oci.image.index.v1+json"
	OCIManifest = "application/vnd.oci.image.manifest.v1+json"
	OCIConfig   = "application/vnd.oci.image.config.v1+json"
	OCILayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// Descriptor, Manifest and Index are as in the OCI image-spec.
type (
	Descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      digest.Digest     `json:"digest"`
		Size        int64             `json:"size"`
		Platform    *Platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	Platform struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant,omitempty"`
	}
	Manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        Descriptor   `json:"config"`
		Layers        []Descriptor `json:"layers"`
		Subject       *Descriptor  `json:"subject,omitempty"`
	}
	Index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []Descriptor `json:"manifests"`
	}
)

// AddJSON keeps a document, and describes it.
func (r *Registry) AddJSON(mediaType string, v any) Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types above can be encoded
	}
	return Descriptor{MediaType: mediaType, Digest: r.Add(mediaType, data), Size: int64(len(data))}
}

// AddImage generates an image for one platform, whose content is of its name
// and the layers given.
func (r *Registry) AddImage(p Platform, name string, layers ...[]byte) Descriptor {
	m := Manifest{SchemaVersion: 2, MediaType: OCIManifest}
	m.Config = r.AddJSON(OCIConfig, map[string]any{"os": p.OS, "architecture": p.Architecture, "variant": p.Variant, "comment": name})
	for _, l := range layers {
		m.Layers = append(m.Layers, Descriptor{MediaType: OCILayer, Digest: r.Add(OCILayer, l), Size: int64(len(l))})
	}
	d := r.AddJSON(OCIManifest, m)
	d.Platform = &p
	return d
}

// AddIndex makes an index of manifests.
func (r *Registry) AddIndex(manifests ...Descriptor) digest.Digest {
	return r.AddJSON(OCIIndex, Index{SchemaVersion: 2, MediaType: OCIIndex, Manifests: manifests}).Digest
}

// OfficialPlatform reads an architecture as official images name it: "arm64v8".
func OfficialPlatform(arch string) Platform {
	p := Platform{OS: "linux", Architecture: arch}
	if rest, ok := strings.CutPrefix(arch, "windows-"); ok {
		return Platform{OS: "windows", Architecture: rest}
	}
	switch {
	case arch == "i386":
		p.Architecture = "386"
	case strings.HasPrefix(arch, "arm32"):
		p.Architecture, p.Variant = "arm", strings.TrimPrefix(arch, "arm32")
	case strings.HasPrefix(arch, "arm64"):
		p.Architecture, p.Variant = "arm64", strings.TrimPrefix(arch, "arm64")
	}
	return p
}

// page are the tags after last, at most n of them.
func page(tags map[string]digest.Digest, last string, n int) []string {
	sorted := slices.Sorted(maps.Keys(tags))
	i, found := slices.BinarySearch(sorted, last)
	if found {
		i++
	}
	sorted = sorted[i:]
	if n > 0 && len(sorted) > n {
		sorted = sorted[:n]
	}
	return sorted
}
