package node

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/s3test"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A publisher is killed after each of its uploads, the last of which is all
// that an image needs before it is recorded. It loses nothing and records
// nothing that is missing; and what it has published then is in the bucket,
// even for a publisher whose store is gone.
func TestPublisherIsKilledBetweenTheBucketAndTheLedger(t *testing.T) {
	registry := upstreamtest.New()
	small, large := []byte("a layer"), bytes.Repeat([]byte("a large layer "), 2<<20)
	layers := []digest.Digest{digest.FromBytes(small), digest.FromBytes(large)}
	image := registry.AddImage(upstreamtest.Platform{OS: "linux", Architecture: "amd64"}, "app", small, large)
	index := registry.AddIndex(image)
	registry.Tag("library/app", "1", index)
	upstream := httptest.NewServer(registry)
	defer upstream.Close()
	gateway := s3test.Start(t)
	s3, uploaded := uploads(t, gateway.Addr)

	signing, _, vkey := signingFile(t)
	p := newProcess(t, Config{
		Role: control.Publisher, DataDir: t.TempDir(), SigningKeyFile: signing, Upstreams: map[string]string{"docker.io": upstream.URL},
		P2PListen: []string{"/ip4/127.0.0.1/tcp/0"}, ControlAddr: freeAddr(t), OpenAddr: freeAddr(t),
		Bucket: "s3://pyrsia/ledger?endpoint=" + s3, BucketSecrets: gateway.Secrets,
	})
	p.start(t)
	p.await(t)
	kills, objects := 0, 0
	for block := (*control.Block)(nil); block == nil; {
		answer := make(chan *control.PublishResponse, 1)
		go func() {
			resp, _ := p.client.Publish(t.Context(), control.PublishRequest{Image: "docker.io/library/app:1", Digest: index.String()})
			answer <- resp
		}()
		select {
		case goOn := <-uploaded:
			p.kill()
			close(goOn)
			<-answer
			kills++
			objects = checkObjects(t, gateway)
			p.start(t)
			if s := p.await(t); !strings.Contains(s.Ledger.Checkpoint, "\n0\n") {
				t.Fatalf("killed before it could record, and there are blocks:\n%s", s.Ledger.Checkpoint)
			}
		case resp := <-answer:
			if resp != nil {
				block = resp.Block
			}
		case <-time.After(testTimeout):
			t.Fatal("nothing is uploaded, and nothing is published")
		}
	}
	if objects != 6 { // two layers, config, manifest, index, pieces
		t.Errorf("the last of %d kills left %d objects in the bucket, want all of the image", kills, objects)
	}
	p.kill()
	if err := os.RemoveAll(filepath.Join(p.config.DataDir, "store")); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	status := p.await(t)
	m := start(t, Config{Role: control.Mirror, LedgerKey: vkey, Bootstrap: []string{status.Addrs[0] + "/p2p/" + status.PeerID}})
	m.awaitBlocks(t, 1)
	for kind, digests := range map[string][]digest.Digest{"manifests": {index, image.Digest}, "blobs": layers} {
		for _, d := range digests {
			if resp, body := m.ask(t, http.MethodGet, "/v2/library/app/"+kind+"/"+d.String()); digest.FromBytes(body) != d {
				t.Errorf("from the bucket alone, %s of %s: %s, %d bytes", d, kind, resp.Status, len(body))
			}
		}
	}
}

// uploads is the URL of an S3 server whose answer to each upload that has
// succeeded waits until the channel it gives is closed.
func uploads(t *testing.T, addr string) (string, chan chan struct{}) {
	t.Helper()
	uploaded := make(chan chan struct{})
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ModifyResponse = func(r *http.Response) error {
		query := r.Request.URL.Query()
		whole := r.Request.Method == http.MethodPut && !query.Has("partNumber") || r.Request.Method == http.MethodPost && query.Has("uploadId")
		if !whole || r.StatusCode != http.StatusOK {
			return nil
		}
		goOn := make(chan struct{})
		select {
		case uploaded <- goOn:
			<-goOn
		case <-t.Context().Done():
		}
		return nil
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL, uploaded
}

// checkObjects hashes all objects in the bucket and counts them.
func checkObjects(t *testing.T, g *s3test.Gateway) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(g.Dir, "ledger", "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || digest.FromBytes(data).Encoded() != filepath.Base(file) {
			t.Errorf("an object with a wrong digest, %d bytes, %v: %s", len(data), err, file)
		}
	}
	return len(files)
}
