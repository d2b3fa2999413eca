// Command mkimage makes a container image of one static binary:
//
//	mkimage BINARY REFERENCE FILE.tar
//
// The file is an OCI image layout in a tar, with an index as the image, like one for several
// platforms.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

const (
	mediaTypeConfig   = "application/vnd.oci.image.config.v1+json"
	mediaTypeIndex    = "application/vnd.oci.image.index.v1+json"
	mediaTypeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	mediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

func describe(mediaType string, blob []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digest(blob), Size: len(blob)}
}

func digest(blob []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(blob)) }

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: mkimage BINARY REFERENCE FILE.tar")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(binary, reference, file string) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	name := filepath.Base(binary)
	layer, err := pack(
		entry{name: "etc/", mode: 0o755},
		entry{name: "tmp/", mode: 0o1777},
		entry{name: name, mode: 0o755, data: program},
	)
	if err != nil {
		return err
	}
	image, err := layout(layer, "/"+name, reference)
	if err != nil {
		return err
	}
	return os.WriteFile(file, image, 0o644)
}

// layout is the OCI image layout, as a tar, of an image with one layer.
func layout(layer []byte, entrypoint, reference string) ([]byte, error) {
	var compressed bytes.Buffer
	zw := gzip.NewWriter(&compressed)
	if _, err := zw.Write(layer); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{entrypoint}, "Env": []string{"PATH=/"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     mediaTypeManifest,
		"config":        describe(mediaTypeConfig, config),
		"layers":        []descriptor{describe(mediaTypeLayer, compressed.Bytes())},
	})
	if err != nil {
		return nil, err
	}
	here := describe(mediaTypeManifest, manifest)
	here.Platform = &platform{Architecture: runtime.GOARCH, OS: "linux"}
	image, err := index(here)
	if err != nil {
		return nil, err
	}
	named := describe(mediaTypeIndex, image)
	named.Annotations = map[string]string{
		"io.containerd.image.name":          reference,
		"org.opencontainers.image.ref.name": reference,
	}
	root, err := index(named)
	if err != nil {
		return nil, err
	}
	return pack(
		entry{name: "oci-layout", mode: 0o644, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		blob(compressed.Bytes()), blob(config), blob(manifest), blob(image),
		entry{name: "index.json", mode: 0o644, data: root},
	)
}

func index(one descriptor) ([]byte, error) {
	return json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     mediaTypeIndex,
		"manifests":     []descriptor{one},
	})
}

type entry struct {
	name string // a folder's ends in a slash
	mode int64
	data []byte
}

func blob(b []byte) entry {
	return entry{name: fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(b)), mode: 0o644, data: b}
}

func pack(entries ...entry) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		if err := tw.WriteHeader(&tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data))}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(e.data); err != nil {
			return nil, err
		}
	}
	// It writes the end of the archive.
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
