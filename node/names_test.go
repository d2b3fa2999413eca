package node

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Clients that send no ns= name other registries in front of the repository, as
// in 127.0.0.1:5001/quay.io/org/image: they get that registry's image of the
// ledger, and a publisher publishes that one on demand, never Docker Hub's of the
// same name.
func TestOtherRegistriesAreNamedInFront(t *testing.T) {
	registry := dockerRegistry(t)
	_, want := push(t, registry.Addr, "app:1", 1<<10)
	push(t, registry.Addr, "later:1", 1<<10)
	publisher := newPublisher(t, registry.Addr, func(c *Config) {
		c.MirrorAddr = freeAddr(t)
		c.Upstreams["quay.io"] = "http://" + registry.Addr
		c.OnPullAllow = []string{"quay.io/library/*:*"}
	})
	publisher.publish(t, "quay.io/library/app:1")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)

	ref, err := name.NewTag(m.MirrorAddr+"/quay.io/library/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := index.Digest(); err != nil || d.String() != want.String() {
		t.Errorf("a client got %s, want %s: %v", d, want, err)
	}
	for _, layer := range layersOf(t, index) {
		if resp, body := m.ask(t, "GET", "/v2/quay.io/library/app/blobs/"+layer.String()); resp.StatusCode != http.StatusOK {
			t.Errorf("its layer: %s: %.200s", resp.Status, body)
		}
	}
	for path, served := range map[string]bool{
		"/v2/library/app/manifests/1?ns=quay.io":             true, // as containerd asks
		"/v2/library/app/manifests/1":                        false,
		"/v2/docker.io/library/app/manifests/1":              false,
		"/v2/quay.io/library/app/manifests/1?ns=quay.io":     false, // ns= wins
		"/v2/quay.io/library/app/tags/list":                  true,
		"/v2/quay.io/library/app/referrers/" + want.String(): true,
		"/v2/quay.io:443/library/app/manifests/1":            false,
	} {
		if resp, body := m.ask(t, "GET", path); (resp.StatusCode == http.StatusOK) != served {
			t.Errorf("%s: %s, served must be %t: %.200s", path, resp.Status, served, body)
		}
	}
	if _, body := m.ask(t, "GET", "/v2/quay.io/library/app/tags/list"); !strings.Contains(string(body), `{"name":"quay.io/library/app","tags":["1"]}`) {
		t.Errorf("tags: %s", body)
	}

	if resp, body := publisher.ask(t, "GET", "/v2/quay.io/library/later/manifests/1"); resp.StatusCode != http.StatusOK {
		t.Errorf("on demand: %s: %.300s", resp.Status, body)
	}
	if resp, body := publisher.ask(t, "GET", "/v2/library/later/manifests/1"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("Docker Hub's of the same name: %s: %.300s", resp.Status, body)
	}
}
