package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pyrsia/pyrsia-operator"

// The plugin asks nodes and is none: it has no code of theirs, on any system that it
// is built for.
func TestPluginHasNoCodeOfANode(t *testing.T) {
	own := []string{"/api/v1alpha1", "/cmd/kubectl-pyrsia", "/node/audit", "/node/client", "/node/control", "/node/internal/bounded", "/node/internal/catalog",
		"/node/ledger", "/node/ledger/cosign", "/node/ledger/internal/plain", "/node/plan", "/node/report"}
	foreign := []string{"github.com/libp2p/", "github.com/minio/", "github.com/transparency-dev/tessera"}
	for _, system := range []string{"linux", "darwin", "windows"} {
		cmd := exec.Command("go", "list", "-deps", ".") // it fails where a package has no file for the system
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list for %s: %v", system, err)
		}
		for _, pkg := range strings.Fields(string(out)) {
			part, ours := strings.CutPrefix(pkg, module)
			if ours && !slices.Contains(own, part) || slices.ContainsFunc(foreign, func(prefix string) bool { return strings.HasPrefix(pkg, prefix) }) {
				t.Errorf("on %s the plugin imports %s", system, pkg)
			}
		}
	}
}
