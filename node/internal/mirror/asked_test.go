package mirror

import (
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// That containerd asks for a registry is what its own requests say that name it.
func TestAskedIsWhatContainerdAsks(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	b := newAskedBook(reg)
	ask := func(agent, url string) {
		r := httptest.NewRequest("HEAD", url, nil)
		r.Header.Set("User-Agent", agent)
		req, _ := parse(r)
		b.note(r, req)
	}
	const path = "/v2/library/alpine/manifests/3.20"
	ask("containerd/v2.4.2", path+"?ns=registry-1.docker.io")
	ask("containerd/1.6.20~ds1", "/v2/org/app/blobs/sha256:x?ns=quay.io")
	ask("containerd/v2.4.2", path)                  // names none
	ask("docker/29.0.0", path+"?ns=ghcr.io")        // another client
	ask("containerd/v2.4.2", "/v2/?ns=mcr.test.io") // nothing is asked for
	ask("containerd/v2.4.2", path+"?ns=!")
	asked := b.asked()
	if len(asked.Registries) != 2 || asked.Registries["docker.io"].IsZero() || asked.Registries["quay.io"].IsZero() || asked.Since.IsZero() {
		t.Errorf("%+v", asked)
	}
	for i := range 2 * maxAsked {
		ask("containerd/v2.4.2", fmt.Sprintf("%s?ns=r%d.test", path, i))
	}
	if asked := b.asked(); len(asked.Registries) != maxAsked || asked.Registries["quay.io"].IsZero() {
		t.Errorf("%d registries", len(asked.Registries))
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n != maxAsked {
		t.Error(n, err)
	}
}
