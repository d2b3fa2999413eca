package mirror

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	tests := map[string]request{
		"/v2":                                {kind: "base"},
		"/v2/":                               {kind: "base"},
		"/v2/_catalog":                       {kind: "catalog"},
		"/v2/alpine/manifests/3":             {"manifest", "alpine", "docker.io/library/alpine", "3"},
		"/v2/library/alpine/blobs/sha256:00": {"blob", "library/alpine", "docker.io/library/alpine", "sha256:00"},
		"/v2/a/b/c/tags/list":                {"tags", "a/b/c", "docker.io/a/b/c", "list"},
		"/v2/a/manifests/x?ns=quay.io":       {"manifest", "a", "quay.io/a", "x"},
		"/v2/a/manifests/x?ns=registry.example:50":            {"manifest", "a", "registry.example:50/a", "x"},
		"/v2/alpine/manifests/3?ns=registry-1.docker.io":      {"manifest", "alpine", "docker.io/library/alpine", "3"},
		"/v2/alpine/manifests/3?ns=Index.Docker.io":           {"manifest", "alpine", "docker.io/library/alpine", "3"},
		"/v2/library/alpine/blobs/sha256:00?ns=docker.io:443": {"blob", "library/alpine", "docker.io/library/alpine", "sha256:00"},

		// A registry in front of the name, as in names of images.
		"/v2/quay.io/org/image/manifests/1":                   {"manifest", "quay.io/org/image", "quay.io/org/image", "1"},
		"/v2/quay.io/image/referrers/sha256:00":               {"referrers", "quay.io/image", "quay.io/image", "sha256:00"},
		"/v2/localhost/image/tags/list":                       {"tags", "localhost/image", "localhost/image", "list"},
		"/v2/docker.io/library/alpine/blobs/sha256:00":        {"blob", "docker.io/library/alpine", "docker.io/library/alpine", "sha256:00"},
		"/v2/docker.io/alpine/manifests/3":                    {"manifest", "docker.io/alpine", "docker.io/library/alpine", "3"},
		"/v2/registry-1.docker.io/library/alpine/tags/list":   {"tags", "registry-1.docker.io/library/alpine", "docker.io/library/alpine", "list"},
		"/v2/quay.io/org/image/manifests/1?ns=docker.io":      {"manifest", "quay.io/org/image", "docker.io/quay.io/org/image", "1"},
		"/v2/quay.io/org/image/manifests/1?ns=mirror.example": {"manifest", "quay.io/org/image", "mirror.example/quay.io/org/image", "1"},
		// These are not hosts.
		"/v2/quay/image/manifests/1":    {"manifest", "quay/image", "docker.io/quay/image", "1"},
		"/v2/image.v2/manifests/1":      {"manifest", "image.v2", "docker.io/library/image.v2", "1"},
		"/v2/localhost/manifests/1":     {"manifest", "localhost", "docker.io/library/localhost", "1"},
		"/v2/org/quay.io/image/blobs/x": {"blob", "org/quay.io/image", "docker.io/org/quay.io/image", "x"},
	}
	for path, want := range tests {
		got, err := parse(httptest.NewRequest(http.MethodGet, path, nil))
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
	}
}

// A name that is not a registry's is not taken for a part of a name on Docker
// Hub.
func TestParseRefusesWhatIsNoRegistry(t *testing.T) {
	for _, ns := range []string{"library", "docker.io.", "https://docker.io", "docker.io/library", "a b"} {
		r := httptest.NewRequest(http.MethodGet, "/v2/x/manifests/1?"+url.Values{"ns": {ns}}.Encode(), nil)
		if got, err := parse(r); err == nil {
			t.Errorf("ns=%s is read as %+v", ns, got)
		}
	}
}

// A registry in front of the name is one, or the name is refused: it is never
// taken for another registry, nor for a part of Docker Hub.
func TestParseRefusesNamesThatAreNone(t *testing.T) {
	for _, name := range []string{"reg.test:5000/image", "quay.io./image", "../image", "quay.io//image", "quay.io/Image", "quay.io/", "a..b/image"} {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/v2/" + name + "/manifests/1"}}
		if got, err := parse(r); err == nil {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
}

// A repository is always of the registry that the client named, and its name
// never leads anywhere else.
func FuzzParseRequest(f *testing.F) {
	f.Add("/v2/library/alpine/manifests/3.20", "docker.io")
	f.Add("/v2/../blobs/x", "")
	f.Add("/v2/a/tags/list", "evil/../x")
	f.Add("/v2/quay.io/org/image/manifests/1", "")
	f.Fuzz(func(t *testing.T, path, ns string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: url.Values{"ns": {ns}}.Encode()}}
		req, err := parse(r)
		if err != nil || req.repository == "" {
			return
		}
		if strings.Contains(req.repository, "..") || strings.ContainsAny(req.repository, " \x00@") {
			t.Errorf("%q in %q gives the repository %q", path, ns, req.repository)
		}
	})
}
