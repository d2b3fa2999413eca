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
		"/v2/alpine/manifests/3":             {"manifest", "docker.io/library/alpine", "3"},
		"/v2/library/alpine/blobs/sha256:00": {"blob", "docker.io/library/alpine", "sha256:00"},
		"/v2/a/b/c/tags/list":                {"tags", "docker.io/a/b/c", "list"},
		"/v2/a/manifests/x?ns=quay.io":       {"manifest", "quay.io/a", "x"},
		"/v2/a/manifests/x?ns=registry.example:50":            {"manifest", "registry.example:50/a", "x"},
		"/v2/alpine/manifests/3?ns=registry-1.docker.io":      {"manifest", "docker.io/library/alpine", "3"},
		"/v2/alpine/manifests/3?ns=Index.Docker.io":           {"manifest", "docker.io/library/alpine", "3"},
		"/v2/library/alpine/blobs/sha256:00?ns=docker.io:443": {"blob", "docker.io/library/alpine", "sha256:00"},
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

// What is no registry is not taken for a part of Docker Hub's names.
func TestParseRefusesWhatIsNoRegistry(t *testing.T) {
	for _, ns := range []string{"library", "docker.io.", "https://docker.io", "docker.io/library", "a b"} {
		r := httptest.NewRequest(http.MethodGet, "/v2/x/manifests/1?"+url.Values{"ns": {ns}}.Encode(), nil)
		if got, err := parse(r); err == nil {
			t.Errorf("ns=%s is read as %+v", ns, got)
		}
	}
}

// A repository is always of the registry that the client named, and its name
// never leads anywhere else.
func FuzzParseRequest(f *testing.F) {
	f.Add("/v2/library/alpine/manifests/3.20", "docker.io")
	f.Add("/v2/../blobs/x", "")
	f.Add("/v2/a/tags/list", "evil/../x")
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
