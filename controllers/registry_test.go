package controllers_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// upstream is a registry to publish from.
type upstream struct {
	*httptest.Server
	login bool // refuse everybody
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u.login {
			w.Header().Set("WWW-Authenticate", `Basic realm="upstream"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(u.Close)
	return u
}

// push puts a new multi-platform image under a tag, and returns its digest.
func (u *upstream) push(t *testing.T, image string) string {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := random.Image(2048, 2)
		must(t, err)
		config, err := img.ConfigFile()
		must(t, err)
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", arch
		if img, err = mutate.ConfigFile(img, config); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return u.tag(t, image, index)
}

func (u *upstream) tag(t *testing.T, image string, index v1.ImageIndex) string {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(u.URL, "http://")+"/"+image, name.Insecure)
	must(t, err)
	must(t, remote.WriteIndex(ref, index))
	digest, err := index.Digest()
	must(t, err)
	return digest.String()
}

// retag puts what is at from under another tag.
func (u *upstream) retag(t *testing.T, from, to string) {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(u.URL, "http://")+"/"+from, name.Insecure)
	must(t, err)
	index, err := remote.Index(ref)
	must(t, err)
	u.tag(t, to, index)
}
