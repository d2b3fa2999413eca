package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/imageverifier"
)

// verifyByPlugin calls the program as containerd's image verifier plugin does.
func verifyByPlugin(t *testing.T, node, vkey, otherKey string, image digest.Digest) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(imageverifier.ConfigVar, filepath.Join(dir, "config.json"))
	call := func(name string, d digest.Digest) (int, string) {
		status, stdout, stderr := pyrsia(t, "-name", name, "-digest", d.String(), "-stdin-media-type", "application/vnd.oci.descriptor.v1+json")
		return status, stdout + stderr
	}
	if status, out := call("docker.io/library/alpine:3.20", image); status != 1 || !strings.Contains(out, "image-verifier install") {
		t.Errorf("without settings: %d %s", status, out)
	}
	for _, key := range []string{vkey, otherKey} {
		install := []string{"image-verifier", "install", "--bin-dir", filepath.Join(dir, "bin"), "--node", node, "--ledger-key", key}
		if status, _, stderr := pyrsia(t, install...); status != 0 {
			t.Fatal(stderr)
		}
		for name, test := range map[string]struct {
			digest digest.Digest
			want   int
		}{
			"docker.io/library/alpine:3.20":                       {image, 0},
			"docker.io/library/alpine:3.20@" + image.String():     {image, 0},
			"docker.io/library/alpine@" + image.String():          {image, 0},
			"docker.io/library/busybox:1":                         {image, 1},
			"docker.io/library/alpine:3.20@sha256:something-else": {digest.FromString("something else"), 1},
			"quay.io/any/image:1":                                 {digest.FromString("something else"), 0},
		} {
			want := test.want
			if key == otherKey && !strings.HasPrefix(name, "quay.io") {
				want = 1
			}
			if status, out := call(name, test.digest); status != want || out == "" {
				t.Errorf("%s: status %d, want %d: %s", name, status, want, out)
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "bin", "pyrsia")); err != nil {
		t.Error(err)
	}
	if status, _, stderr := pyrsia(t, "image-verifier", "uninstall", "--bin-dir", filepath.Join(dir, "bin")); status != 0 {
		t.Error(stderr)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "bin")); len(left) != 0 {
		t.Errorf("left in bin_dir: %v", left)
	}
}
