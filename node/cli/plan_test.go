package cli

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

func TestPlanListsWhatASetSelects(t *testing.T) {
	registry := upstreamtest.New()
	for _, tag := range []string{"3.18", "3.19", "3.20", "edge", "3.21-rc1"} {
		registry.Tag("library/alpine", tag, digest.FromString(tag))
	}
	server := httptest.NewServer(registry)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "set.yaml")
	set := `apiVersion: pyrsia.io/v1alpha1
kind: OfficialImageSet
metadata: {name: images}
spec:
  publisherRef: {name: publisher}
  images:
  - {repository: alpine, semver: ">=3.19"}
  - {repository: busybox, tags: ["1.37", musl]}
  - {repository: missing, newest: 1}
  exclude: ["busybox:mus*"]
`
	if err := os.WriteFile(file, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := pyrsia(t, "plan", "-f", file, "--upstream", "docker.io="+server.URL)
	want := "docker.io/library/alpine:3.19\ndocker.io/library/alpine:3.20\ndocker.io/library/busybox:1.37\n"
	if status != 0 || stdout != want {
		t.Errorf("status %d, listed:\n%swant:\n%s", status, stdout, want)
	}
	if !strings.Contains(stderr, "docker.io/library/missing") || !strings.Contains(stderr, "3 images of 2 repositories, 1 problems") {
		t.Errorf("told:\n%s", stderr)
	}
	if registry.Counts().Manifests+registry.Counts().Head+registry.Counts().Blobs > 0 {
		t.Errorf("images were asked for: %+v", registry.Counts())
	}
	for name, content := range map[string]string{
		"another kind": "kind: Pod\nspec: {}", "nothing": "spec: {}", "no YAML": "{", "a bad rule": "spec: {images: [{repository: alpine, semver: x.y.z}]}",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := pyrsia(t, "plan", "-f", file); status != 1 || stderr == "" {
			t.Errorf("%s: status %d: %s", name, status, stderr)
		}
	}
}
