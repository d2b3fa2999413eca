// Command estargz makes a layer that the stargz-snapshotter mounts before it is
// there, and prints the digest of its table of contents:
//
//	estargz TAR LAYER
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	layer, err := estargz.Build(io.NewSectionReader(in, 0, info.Size()))
	if err != nil {
		return err
	}
	defer layer.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, layer); err != nil {
		return err
	}
	_, err = fmt.Println(layer.TOCDigest())
	return err
}
