package clients

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// A publisher that may publishes what a client pulls and the ledger does not
// have; the client gets it at the same pull. Nothing else is published.
func TestPullsPublish(t *testing.T) {
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	b := startPublisher(t, "--mirror-addr", addr, "--on-pull-allow", "wanted-*:1")
	b.push("unwanted:1", image.OCI, 1, 1<<10)
	for _, c := range []client{
		b.env.containerd(t, "containerd 1.6", b.env.programs, b.rig.Pyrsia, addr, "Strict", ""),
		b.env.containerd(t, "containerd 2.4", b.env.newer, b.rig.Pyrsia, addr, "Strict", ""),
		b.env.dockerd(t, b.rig.Pyrsia, addr),
		b.env.skopeo(t, b.rig.Pyrsia, addr, "Strict"),
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			wanted := "wanted-" + strings.ToLower(b.slug(c)) + ":1"
			b.push(wanted, image.OCI, 2, 9<<20)
			before := b.env.hub.requests.Load()
			if got, err := b.pull(c, wanted, 1); got != pulled {
				t.Errorf("%s: %s, %v", wanted, got, err)
			}
			if n := b.env.hub.requests.Load() - before; n > 0 {
				t.Errorf("%d requests went to Docker Hub", n)
			}
			if n := b.blocks(wanted); n != 1 {
				t.Errorf("the ledger has %d blocks of it", n)
			}
			if strings.HasPrefix(c.name, "dockerd") {
				return // it goes on to Docker Hub
			}
			if got, err := b.pull(c, "unwanted:1", 1); got != refusal(c) {
				t.Errorf("an image that is not on the list: %s, %v", got, err)
			}
		})
	}
	b.t = t
	if n := b.blocks("unwanted:1"); n != 0 {
		t.Errorf("the ledger has %d blocks of an image that is not on the list", n)
	}
}

// blocks counts the blocks of an image on the publisher's ledger.
func (b *bench) blocks(image string) int {
	b.t.Helper()
	resp, err := http.Get("http://" + b.rig.Publisher.Open + "/api/v1/artifacts?image=" + image)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var page []json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		b.t.Fatal(err)
	}
	return len(page)
}
