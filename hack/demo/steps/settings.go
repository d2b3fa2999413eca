package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
)

const (
	certsD      = "/etc/containerd/certs.d"
	dockerHosts = certsD + "/docker.io/hosts.toml"
)

// userSettings are what a user may have set up before: plain HTTP to a registry
// of their own, and on w1 another mirror of Docker Hub.
func userSettings(ctx context.Context, w *Env) error {
	w.settings = map[string]string{}
	_, err := w.OnNode(ctx, "w1", "sh", "-c", `mkdir -p $(dirname "$0") && echo 'server = "https://mirror.example"' >"$0" && chmod 640 "$0"`, dockerHosts)
	for _, node := range w.machines() {
		err = errors.Join(err, w.settle(ctx, node))
	}
	return err
}

// settle sets up the demo's registry on a node, and notes all of certs.d.
func (w *Env) settle(ctx context.Context, node string) error {
	_, err := w.OnNode(ctx, node, "sh", "-c", `mkdir -p "$0" && echo "server = \"http://$1\"" >"$0/hosts.toml"`,
		certsD+"/"+w.RegistryAddr(), w.RegistryAddr())
	if err != nil {
		return err
	}
	w.settings[node], err = w.readSettings(ctx, node)
	return err
}

// readSettings describes certs.d on a node: each name with its type, mode and
// owner, and files with their identity, age and content.
func (w *Env) readSettings(ctx context.Context, node string) (string, error) {
	return w.OnNode(ctx, node, "sh", "-c",
		`cd "$0" && find . -type d -printf '%y %m %U:%G %p\n' -o -printf '%y %m %U:%G %i %T@ %p\n' | sort && find . -type f -exec sha256sum {} + | sort`, certsD)
}

// settingsRestored compares certs.d on every machine with what it was before.
func (w *Env) settingsRestored(ctx context.Context) error {
	for _, node := range w.machines() {
		now, err := w.readSettings(ctx, node)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(strings.Split(w.settings[node], "\n"), strings.Split(now, "\n")); diff != "" {
			return fmt.Errorf("containerd's settings on %s (-before +after):\n%s", node, diff)
		}
		if data, err := w.OnNode(ctx, node, "find", mirrorDir, "-mindepth", "1"); err != nil || data != "" {
			return fmt.Errorf("left of the mirror's data on %s: %w\n%s", node, err, data)
		}
	}
	fmt.Fprintf(w.Out, "%s is on %s what it was before.\n", certsD, strings.Join(w.machines(), ", "))
	return nil
}
