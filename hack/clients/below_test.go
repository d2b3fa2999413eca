package clients

import (
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// With Fallback the user's own set-up is asked after the mirror, by the old and
// the new containerd: an http registry of a _default that wants a header, and a
// server with an own certificate. Docker Hub is asked for nothing. Strict asks
// neither of them.
func TestOwnHostsBelowTheMirror(t *testing.T) {
	w := findPrograms(t)
	pyrsia := filepath.Join(t.TempDir(), "pyrsia")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", pyrsia, "../../cmd/pyrsia").CombinedOutput(); err != nil {
		t.Fatalf("building pyrsia: %v: %s", err, out)
	}
	var mirrored, asked atomic.Int64
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { // a mirror without the image
		mirrored.Add(1)
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not on the ledger"}]}`, http.StatusNotFound)
	}))
	t.Cleanup(mirror.Close)
	content := registry.New(registry.Logger(log.New(t.Output(), "", 0)))
	open := httptest.NewServer(content)
	t.Cleanup(open.Close)
	ref, err := name.NewTag(strings.TrimPrefix(open.URL, "http://")+"/library/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, makeImage(t, "the user's"), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.hub = startHub(t, strings.TrimPrefix(open.URL, "http://"))
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("X-Team") != "a" {
			http.Error(w, "who are you", http.StatusForbidden)
			return
		}
		content.ServeHTTP(w, r)
	})
	plain, withTLS := httptest.NewServer(own), httptest.NewTLSServer(own)
	t.Cleanup(plain.Close)
	t.Cleanup(withTLS.Close)
	for name, files := range map[string]map[string]string{
		"http in _default": {
			"_default/hosts.toml": fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  [host.%[1]q.header]\n    X-Team = \"a\"\n", plain.URL),
		},
		"a server with a certificate": {
			"docker.io/ca.pem":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: withTLS.Certificate().Raw})),
			"docker.io/hosts.toml": fmt.Sprintf("server = %q\nca = \"ca.pem\"\n[header]\nX-Team = \"a\"\n", withTLS.URL),
		},
	} {
		for program, at := range map[string]string{"containerd 1.6": w.programs, "containerd 2.4": w.newer} {
			for _, mode := range []string{"Fallback", "Strict"} {
				t.Run(name+", "+program+", "+mode, func(t *testing.T) {
					dir := shortDir(t)
					for file, content := range files {
						file = filepath.Join(dir, "certs.d", file)
						if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o600)); err != nil {
							t.Fatal(err)
						}
					}
					c := w.containerdIn(t, dir, program, at, pyrsia, strings.TrimPrefix(mirror.URL, "http://"), mode, "")
					mirrored.Store(0)
					asked.Store(0)
					w.hub.requests.Store(0)
					out, _, err := c.pull(t.Context(), "app:1")
					if fallback := mode == "Fallback"; (err == nil) != fallback || (asked.Load() > 0) != fallback || mirrored.Load() == 0 {
						t.Errorf("%v, %d requests to the mirror, %d to the user's host: %s", err, mirrored.Load(), asked.Load(), out)
					}
					if n := w.hub.requests.Load(); n != 0 {
						t.Errorf("%d requests went to Docker Hub", n)
					}
				})
			}
		}
	}
}
