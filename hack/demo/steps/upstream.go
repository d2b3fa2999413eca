package steps

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
)

// startUpstream runs a registry on this machine and pushes the images to it
// that the demo publishes.
func startUpstream(ctx context.Context, w *Env) error {
	dir := w.upstreamDir()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	debian, err := w.Output(ctx, "hack/cluster/debian.sh")
	if err != nil {
		return err
	}
	debian = strings.TrimSpace(debian)
	busybox, err := os.ReadFile(filepath.Join(debian, "busybox"))
	if err != nil {
		return fmt.Errorf("reading Debian's static busybox: %w", err)
	}
	rootfs, err := w.Output(ctx, "hack/cluster/rootfs.sh")
	if err != nil {
		return err
	}
	w.registry, err = upstream.Start(ctx, filepath.Join(debian, "docker-registry"), dir, w.RegistryAddr())
	if err != nil {
		return err
	}
	w.content = upstream.Content{Registry: w.RegistryAddr(), Busybox: busybox, Debian: strings.TrimSpace(rootfs)}
	if w.pushed, err = w.content.PushAll(ctx); err != nil {
		return err
	}
	if err := w.content.PushUnpublished(ctx, "1"); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "docker-registry listens on %s; pushed to it:\n", w.RegistryAddr())
	for _, image := range slices.Sorted(maps.Keys(w.pushed)) {
		fmt.Fprintf(w.Out, "  library/%-12s %s\n", image, w.pushed[image])
	}
	fmt.Fprintln(w.Out, "  library/unpublished:1, which no OfficialImageSet will name")
	return nil
}

// serveUpstream starts the upstream again, with what was pushed to it, unless it runs.
func (w *Env) serveUpstream(ctx context.Context) error {
	if w.registry != nil {
		return nil
	}
	debian, err := w.Output(ctx, "hack/cluster/debian.sh")
	if err != nil {
		return err
	}
	w.registry, err = upstream.Start(ctx, filepath.Join(strings.TrimSpace(debian), "docker-registry"), w.upstreamDir(), w.RegistryAddr())
	return err
}

func (w *Env) upstreamDir() string { return filepath.Join(w.Root, "tmp", "demo", "upstream") }

// loseUpstream moves a published tag, then stops the upstream for good.
func loseUpstream(ctx context.Context, w *Env) error {
	moved, err := w.content.Move(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "library/moving:1 was %s\n         upstream is now %s\n", w.pushed["moving:1"], moved)
	if err := w.registry.Stop(); err != nil {
		return err
	}
	w.registry = nil
	fmt.Fprintf(w.Out, "The upstream on %s is stopped.\n", w.RegistryAddr())
	return nil
}
