package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// nonroot is the user and group that distroless images use too; a number, so
// that the kubelet can check runAsNonRoot without an /etc/passwd.
const nonroot = "65532:65532"

func (p program) image(ctx context.Context, version string, platform v1.Platform, labels map[string]string) (v1.Image, error) {
	binary, err := p.compile(ctx, version, platform)
	if err != nil {
		return nil, err
	}
	layer, err := image.OCI.Layer(gzip.DefaultCompression, image.File{Path: p.name, Data: binary, Mode: 0o755})
	if err != nil {
		return nil, err
	}
	return image.OCI.Image(platform, v1.Config{
		User:       nonroot,
		Entrypoint: []string{"/" + p.name},
		WorkingDir: "/",
		Labels:     labels,
	}, layer)
}

// compile builds the program. Paths, version control state and the build ID
// stay out of it: they differ between machines that build the same source.
// The linker drops debug information, so the compiler makes none.
func (p program) compile(ctx context.Context, version string, platform v1.Platform) ([]byte, error) {
	dir, err := os.MkdirTemp("", "pyrsia-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, p.name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-gcflags", "all=-dwarf=false",
		"-ldflags", "-s -w -buildid= -X "+p.versionVar+"="+version, "-o", file, "./cmd/"+p.name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("compiling ./cmd/%s: %w", p.name, err)
	}
	return os.ReadFile(file)
}
