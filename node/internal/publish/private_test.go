package publish

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// loggedIn is a publisher whose upstream has a login, and repositories that can
// be read without: those below open/.
func loggedIn(t *testing.T, onPull OnPull, private ...string) *env {
	t.Helper()
	secrets := t.TempDir()
	w := newEnv(t, onPull, func(c *Config) {
		c.SecretDir, c.Private = secrets, private
		c.Upstreams["registry.example:5000"] = c.Upstreams["docker.io"]
	})
	w.registry.Username, w.registry.Password = "robot", "secret"
	w.registry.Public = func(repository string) bool { return strings.HasPrefix(repository, "open/") }
	for _, registry := range []string{"docker.io", "registry.example:5000"} {
		dir := filepath.Join(secrets, SecretFolder(registry))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"username": "robot", "password": "secret"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

func (w *env) pushTo(repository, content string) digest.Digest {
	d := w.registry.AddIndex(w.registry.AddImage(linux, content, []byte(content)))
	w.registry.Tag(repository, "1", d)
	return d
}

// The creator of an Artifact cannot publish what only the publisher's login can
// read, unless the settings list it, and does not even learn what exists.
func TestPrivateImagesAreNotPublished(t *testing.T) {
	w := loggedIn(t, OnPull{Allow: []string{"*:*", "*/*:*", "*/*/*:*", "*/*/*/*:*"}}, "registry.example:5000/team/*", "registry-1.docker.io/team/public")
	for _, tc := range []struct {
		image   string
		allowed bool
	}{
		{"docker.io/library/alpine:1", true}, // official images are public
		{"docker.io/team/public:1", true},
		{"docker.io/team/secret:1", false},
		{"docker.io/open/tool:1", true},
		{"registry.example:5000/library/alpine:1", false}, // not Docker Hub's
		{"registry.example:5000/team/app:1", true},
		{"registry.example:5000/team/app/secret:1", false},
		{"registry.example:5000/open/tool:1", true},
		{"registry.example:5000/other/secret:1", false},
	} {
		t.Run(tc.image, func(t *testing.T) {
			image := parseImage(t, tc.image)
			d := w.pushTo(image.Repository, "content of "+tc.image)
			_, resolved := w.Resolve(t.Context(), control.ResolveRequest{Image: tc.image})
			_, published := w.Publish(t.Context(), control.PublishRequest{Image: tc.image, Digest: d.String()})
			_, pinned := w.Publish(t.Context(), control.PublishRequest{Image: tc.image, Digest: d.String(), Pinned: true})
			_, listed := w.tags(t.Context(), tc.image)
			pulled := w.Pull(within(t, quickWait), image)
			for what, err := range map[string]error{"resolve": resolved, "publish": published, "pin": pinned, "list": listed, "pull": pulled} {
				if tc.allowed && err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if !tc.allowed && (reasonOf(err) != control.ReasonRepositoryPrivate || !strings.Contains(err.Error(), "privateRepositories") || !strings.Contains(err.Error(), image.Repository)) {
					t.Errorf("%s: %v, want that it is private, and the line that allows it", what, err)
				}
			}
			if _, err := w.Writer.Latest(t.Context(), image); errors.Is(err, ledger.ErrNotFound) == tc.allowed {
				t.Errorf("on the ledger: %v, want it there: %v", err, tc.allowed)
			}
		})
	}
}

// Without a login nothing is asked twice, and with one a repository that can be
// read without it costs one look.
func TestPublicRepositoriesAreLookedAtOnce(t *testing.T) {
	w := loggedIn(t, OnPull{})
	for _, content := range []string{"first", "second"} {
		w.pushTo("open/tool", content)
		w.mustPublish(t, "registry.example:5000/open/tool:1")
	}
	if n := w.registry.Counts().Head; n != 3 {
		t.Errorf("the tag was asked %d times for two publications, want 3: once without the login", n)
	}
	// What is not there is not there, with the login or without.
	if _, err := w.Resolve(t.Context(), control.ResolveRequest{Image: "registry.example:5000/open/other:1"}); reasonOf(err) != control.ReasonImageNotFound {
		t.Errorf("a public repository without the tag: %v", err)
	}
}

// Some registries say that a private repository does not exist: with a login,
// the error says which setting allows it.
func TestHiddenRepositoriesAreExplained(t *testing.T) {
	w := loggedIn(t, OnPull{})
	w.registry.Public = func(string) bool { return true }
	w.registry.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		hidden := strings.Contains(r.URL.Path, "/hidden/")
		if hidden {
			rw.WriteHeader(http.StatusNotFound)
		}
		return hidden
	}
	const image = "registry.example:5000/hidden/app:1"
	_, resolved := w.Resolve(t.Context(), control.ResolveRequest{Image: image})
	_, published := w.Publish(t.Context(), control.PublishRequest{Image: image, Digest: digest.FromString("x").String()})
	for what, err := range map[string]error{"resolve": resolved, "publish": published} {
		if reasonOf(err) != control.ReasonImageNotFound || !strings.Contains(err.Error(), "privateRepositories") {
			t.Errorf("%s: %v, want that it is not there without the login", what, err)
		}
	}
}
