// Package image builds container images from files alone: no base image, no
// container engine, and the same bytes each time.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch stands for every time in an image, so that a build depends on its
// input alone.
var epoch = time.Unix(0, 0).UTC()

// Format is a family of media types.
type Format struct {
	index, manifest, config, layer types.MediaType
}

// The two formats that registries hold.
var (
	OCI    = Format{types.OCIImageIndex, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer}
	Docker = Format{types.DockerManifestList, types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer}
)

// File is one member of a layer: a regular file, or a link if Link is set.
type File struct {
	Path string // without a leading slash
	Data []byte
	Mode int64
	Link string // target of a symbolic link
}

// Layer makes a layer of files. compression is a level of compress/gzip.
func (f Format) Layer(compression int, files ...File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, file := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: file.Path, Mode: file.Mode, Size: int64(len(file.Data)), ModTime: epoch}
		if file.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, file.Link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("adding %s to a layer: %w", file.Path, err)
		}
		if _, err := w.Write(file.Data); err != nil {
			return nil, fmt.Errorf("adding %s to a layer: %w", file.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("closing a layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(f.layer), tarball.WithCompressionLevel(compression), tarball.WithCompressedCaching)
}

// Image makes the image of one platform.
func (f Format) Image(platform v1.Platform, config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, f.manifest), f.config)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: platform.Architecture,
		OS:           platform.OS,
		Variant:      platform.Variant,
		Created:      v1.Time{Time: epoch},
		Config:       config,
		RootFS:       v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, fmt.Errorf("image for %s: %w", platform, err)
	}
	var adds []mutate.Addendum
	for _, l := range layers {
		adds = append(adds, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: epoch}}})
	}
	return mutate.Append(img, adds...)
}

// Index makes the index (or manifest list) of one image for each platform.
func (f Format) Index(annotations map[string]string, images ...v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, f.index)
	for _, img := range images {
		c, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("image of an index: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        runnable{img},
			Descriptor: v1.Descriptor{Platform: c.Platform()},
		})
	}
	if len(annotations) == 0 {
		return index, nil
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex), nil
}

// runnable keeps its image's descriptor in an index free of an artifactType:
// clients take what has one for something that is not a container image.
type runnable struct{ v1.Image }

// ArtifactType is asked for by the partial package.
func (runnable) ArtifactType() (string, error) { return "", nil }
