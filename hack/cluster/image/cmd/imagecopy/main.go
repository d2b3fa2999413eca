// Command imagecopy copies an image of a registry into a folder by the library that
// podman, skopeo, buildah and CRI-O use, with their configuration below a root:
//
//	imagecopy ROOT REGISTRY/NAME:TAG FOLDER
package main

import (
	"context"
	"fmt"
	"os"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, image, folder string) error {
	from, err := docker.ParseReference("//" + image)
	if err != nil {
		return err
	}
	to, err := directory.NewReference(folder)
	if err != nil {
		return err
	}
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	_, err = copy.Image(ctx, policy, to, from, &copy.Options{
		SourceCtx: &types.SystemContext{RootForImplicitAbsolutePaths: root}, ImageListSelection: copy.CopyAllImages,
	})
	return err
}
