package replica

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// What a peer sends as a bundle, or as the proof of a rotation, crashes nobody
// and proves nothing.
func FuzzFromPeers(f *testing.F) {
	v, err := ledger.NewVerifier(fuzzKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x00\x01a\x00\x02bc"), "c2sp.org/tlog-proof@v1\nindex 0\n\n")
	f.Fuzz(func(t *testing.T, bundle []byte, proof string) {
		for _, width := range []int{1, 2, torchwood.TileWidth} {
			tile := tlog.Tile{H: torchwood.TileHeight, L: -1, W: width}
			if leaves, err := entryHashes(tile, bundle); err == nil && len(leaves) != width*tlog.HashSize {
				t.Errorf("%d bytes of hashes of %d entries", len(leaves), width)
			}
			if cut, err := narrow(bundle, tile); err == nil && !bytes.HasPrefix(bundle, cut) {
				t.Errorf("%q is no beginning of %q", cut, bundle)
			}
		}
		if again := v.WithAll([]ledger.Rotation{{Entry: string(bundle), Proof: proof}}); again != v {
			t.Errorf("a rotation was believed that nobody signed: %q", proof)
		}
	})
}

// Requests of anyone are answered, or refused with a status that says so.
func FuzzRequests(f *testing.F) {
	p, err := OpenFollower(f.Context(), f.TempDir(), fuzzKey(f), quiet())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = p.Close() })
	handler := p.Handler()
	for _, path := range []string{"/checkpoint", "/tile/0/000.p/7", "/tile/entries/x001/000", "/api/v1/blocks/1", "/api/v1/entries/0?n=1024",
		"/api/v1/artifacts?image=alpine&n=5&before=7", "/api/v1/artifacts?digest=sha256:00", "/tile/../checkpoint"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse("http://node/" + strings.TrimPrefix(path, "/"))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: u, Host: "node", Header: http.Header{}})
		if w.Code >= 500 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	})
}

func fuzzKey(f *testing.F) string {
	f.Helper()
	_, vkey, err := ledger.GenerateKey("ledger.example/fuzz")
	if err != nil {
		f.Fatal(err)
	}
	return vkey
}
