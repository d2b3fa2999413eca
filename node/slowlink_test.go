package node

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// Over a slow link the first verified bytes of a layer come later than clients
// wait for an answer. They get response headers in time, and then the layer.
func TestSlowLinksArePatient(t *testing.T) {
	registry := dockerRegistry(t)
	index, _ := push(t, registry.Addr, "big:1", 4<<20+4096)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "big:1")
	m := start(t, Config{Role: control.Mirror, LedgerKey: publisher.ledger.Key(), Bootstrap: []string{publisher.address()}, DownloadLimit: 256 << 10})
	m.awaitBlocks(t, 1)
	client := &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 30 * time.Second}}
	defer client.CloseIdleConnections()
	layer := layersOf(t, index)[0]
	resp, err := client.Get("http://" + m.MirrorAddr + "/v2/library/big/blobs/" + layer.String() + "?ns=docker.io")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, body)
	}
	if got, err := digest.FromReader(resp.Body); err != nil || got != layer {
		t.Errorf("got %s, %v, want %s", got, err, layer)
	}
}
