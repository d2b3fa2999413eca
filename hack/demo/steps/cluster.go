package steps

import (
	"context"
	"runtime"
)

// startCluster starts the cluster afresh, so that the demo is the same each
// time. It reaches the internet only if the publisher is to.
func startCluster(ctx context.Context, w *Env) error {
	if w.Upstream == DockerHub {
		w.env = append(w.env, "EGRESS=1")
	}
	for _, argv := range [][]string{
		{"make", "--no-print-directory", "kube-binaries"},
		{clusterScript, "down"},
	} {
		if err := w.Show(ctx, argv...); err != nil {
			return err
		}
	}
	w.Begin(ctx, makeImages()...) // while the nodes boot
	if err := w.Show(ctx, clusterScript, "up"); err != nil {
		return err
	}
	if err := w.readCluster(ctx); err != nil {
		return err
	}
	if err := w.connect(); err != nil {
		return err
	}
	if err := w.readNodes(ctx); err != nil {
		return err
	}
	return w.Show(ctx, "kubectl", "get", "nodes")
}

// loadImages builds the project's images for this machine and gives them to
// the nodes, as `ctr images import` does.
func loadImages(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, makeImages()...); err != nil {
		return err
	}
	return w.load(ctx, "tmp/demo")
}

func makeImages() []string {
	return []string{"make", "--no-print-directory", "images", "PLATFORMS=linux/" + runtime.GOARCH, "DIST=tmp/demo"}
}

// load gives the nodes the project's images that are in a folder.
func (w *Env) load(ctx context.Context, dir string) error {
	return w.Quietly(ctx, append([]string{clusterScript, "load"}, archives(dir)...)...)
}

// archives are the project's images in a folder.
func archives(dir string) []string {
	return []string{dir + "/pyrsia-operator.tar", dir + "/pyrsia.tar"}
}
