package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/internal/imageverifier"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The image verifier says whether anybody asks it.
func TestImageVerifierStatus(t *testing.T) {
	onPath(t, "containerd", "")
	dir := t.TempDir()
	bin, config := filepath.Join(dir, "bin"), filepath.Join(dir, "config.toml")
	t.Setenv(imageverifier.ConfigVar, filepath.Join(dir, "verifier.json"))
	if err := os.WriteFile(config, []byte("version = 3\n[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n  bin_dir = \""+bin+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(what string, want int, say string, version string) {
		t.Helper()
		status, stdout, stderr := pyrsia(t, "image-verifier", "status", "--bin-dir", bin, "--config", config, "--containerd-version", version)
		if status != want || !strings.Contains(stdout+stderr, say) {
			t.Errorf("%s: status %d, want %d and %q: %s%s", what, status, want, say, stdout, stderr)
		}
	}
	check("not installed", 1, "'pyrsia image-verifier install' puts it there", "2.4.2")
	_, vkey, err := ledger.GenerateKey("ledger.example/cli")
	if err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := pyrsia(t, "image-verifier", "install", "--bin-dir", bin, "--ledger-key", vkey); status != 0 {
		t.Fatal(stderr)
	}
	check("asked", 0, "asks pyrsia before each pull of CRI", "2.4.2")
	check("not asked", 1, "without the transfer service", "2.0.14")
	check("not known", 1, "containerd 2.0 does not ask", "")
	link := filepath.Join(bin, imageverifier.ProgramName)
	if err := errors.Join(os.Remove(link), os.Symlink("/gone", link)); err != nil {
		t.Fatal(err)
	}
	check("a link to nothing", 1, "containerd refuses every image", "2.4.2")
	if err := os.Remove(filepath.Join(dir, "verifier.json")); err != nil {
		t.Fatal(err)
	}
}
