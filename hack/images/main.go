// Command images builds the project's container images without a container
// engine: each holds one static binary and nothing else. Two runs on the same
// source with the same Go version give the same digests.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// program is one binary of the project that gets an image of its own.
type program struct {
	name        string // of the image, of the binary and of its folder in cmd/
	description string
	versionVar  string // the Go variable that the linker sets to the version
}

var programs = []program{
	{"pyrsia-operator", "Runs Pyrsia nodes on Kubernetes and publishes official images through them", "main.version"},
	{"pyrsia", "Pyrsia node: publishes, mirrors and verifies official images",
		"github.com/pyrsia/pyrsia-operator/node.Version"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	out := flag.String("out", "dist", "`folder` for the OCI archives")
	registry := flag.String("registry", "ghcr.io/pyrsia", "registry and `prefix` of the images' names")
	tag := flag.String("tag", "v0.1.0", "`tag` of the images, and version that the binaries report")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64", "comma-separated `list` of platforms")
	push := flag.Bool("push", false, "push the images too, with the credentials of 'docker login'")
	flag.Parse()
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for _, p := range programs {
		ref, err := name.NewTag(*registry+"/"+p.name+":"+*tag, name.StrictValidation)
		if err != nil {
			return err
		}
		index, err := p.index(ctx, *tag, strings.Split(*platforms, ","))
		if err != nil {
			return fmt.Errorf("image %s: %w", ref, err)
		}
		file := filepath.Join(*out, p.name+".tar")
		if err := image.WriteArchive(file, ref.String(), index); err != nil {
			return err
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		fmt.Printf("%s  %s@%s\n", file, ref, digest)
		if *push {
			if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
				return fmt.Errorf("pushing %s: %w", ref, err)
			}
		}
	}
	return nil
}

// index builds the program for each platform, and the index of their images.
func (p program) index(ctx context.Context, version string, platforms []string) (v1.ImageIndex, error) {
	labels := map[string]string{
		"org.opencontainers.image.title":       p.name,
		"org.opencontainers.image.description": p.description,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://github.com/pyrsia/pyrsia-operator",
		"org.opencontainers.image.version":     version,
	}
	var images []v1.Image
	for _, s := range platforms {
		platform, err := v1.ParsePlatform(s)
		if err != nil {
			return nil, err
		}
		img, err := p.image(ctx, version, *platform, labels)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		images = append(images, img)
	}
	return image.OCI.Index(labels, images...)
}
