// Package canary makes the image that proves that containerd asks its mirror.
// Each mirror serves it under a registry name of its own in a domain that does
// not exist (.invalid, RFC 6761), so containerd gets it only if its configuration
// leads to that mirror. The image contains one small program that waits for a
// signal. Operator and mirror make the same bytes, so that the operator knows the
// digest in advance. It imports nothing of the project; the operator's
// controllers and the socket proxy call it.
package canary

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	domain     = "canary.pyrsia.invalid"
	repository = "canary"
	// user is that of the node's own image.
	user = "65532:65532"
)

// Registry is the registry of a mirror's canary. The mirror's name is one label
// of DNS, such as the UID of its PyrsiaNode.
func Registry(mirror string) string { return mirror + "." + domain }

// Image is the image that proves, where it runs, that containerd asks the mirror.
func Image(mirror string) string {
	return Registry(mirror) + "/" + repository + "@" + Digest().String()
}

// Digest is the digest of the image's index.
func Digest() digest.Digest { return image().index }

// Content returns the content of a digest in the canary's registry.
func Content(d digest.Digest) (mediaType string, data []byte, ok bool) {
	b, ok := image().blobs[d]
	return b.mediaType, b.data, ok
}

type blob struct {
	mediaType string
	data      []byte
}

type content struct {
	index digest.Digest
	blobs map[digest.Digest]blob
}

var image = sync.OnceValue(build)

// build makes the image, with nothing in it that could differ from one build of
// Pyrsia to the next: no time, and no compression.
func build() content {
	c := content{blobs: map[digest.Digest]blob{}}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, arch := range slices.Sorted(maps.Keys(programs)) {
		platform := v1.Platform{OS: "linux", Architecture: arch}
		layer := c.add(v1.MediaTypeImageLayer, layer(executable(programs[arch].machine, programs[arch].code)))
		config := c.addJSON(v1.MediaTypeImageConfig, v1.Image{
			Platform: platform,
			Config:   v1.ImageConfig{User: user, Entrypoint: []string{"/" + repository}},
			RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
		})
		manifest := c.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
			Versioned: index.Versioned, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{layer},
		})
		manifest.Platform = &platform
		index.Manifests = append(index.Manifests, manifest)
	}
	c.index = c.addJSON(index.MediaType, index).Digest
	return c
}

func (c content) add(mediaType string, data []byte) v1.Descriptor {
	d := digest.FromBytes(data)
	c.blobs[d] = blob{mediaType, data}
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (c content) addJSON(mediaType string, v any) v1.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // it holds nothing but texts and numbers
	}
	return c.add(mediaType, data)
}

// layer is a file system with the program in it.
func layer(program []byte) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: repository, Mode: 0o555, Size: int64(len(program)), Format: tar.FormatUSTAR}); err != nil {
		panic(err) // to memory
	}
	_, _ = w.Write(program)
	_ = w.Close()
	return buf.Bytes()
}
