package upstream

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Whatever an upstream sends is bounded, named, and leaves nothing behind that
// could be served.
func TestHostileUpstreams(t *testing.T) {
	endless := func(sent *atomic.Int64) func(http.ResponseWriter) {
		return func(rw http.ResponseWriter) {
			chunk := make([]byte, 64<<10)
			for {
				n, err := rw.Write(chunk)
				sent.Add(int64(n))
				if err != nil || sent.Load() > 200<<20 {
					return
				}
			}
		}
	}
	for name, tc := range map[string]struct {
		kind Kind
		says string
		make func(w *env, sent *atomic.Int64)
	}{
		"an endless layer": {Invalid, "more than the 5 bytes", func(w *env, sent *atomic.Int64) {
			w.pushIndex("bad", "1", []byte("layer"))
			w.Fault = only("/blobs/"+digest.FromString("layer").String(), endless(sent))
		}},
		"a layer of another length": {Invalid, "announces 6 bytes, the manifest says 5", func(w *env, _ *atomic.Int64) {
			w.pushIndex("bad", "1", []byte("layer"))
			w.AddAs(digest.FromString("layer"), upstreamtest.OCILayer, []byte("layer!"))
		}},
		"a corrupt layer": {Invalid, "does not have the expected digest", func(w *env, _ *atomic.Int64) {
			w.pushIndex("bad", "1", []byte("layer"))
			w.AddAs(digest.FromString("layer"), upstreamtest.OCILayer, []byte("LAYER"))
		}},
		"a layer said to be larger than any disk": {Invalid, "an image may have", func(w *env, _ *atomic.Int64) {
			m := upstreamtest.Manifest{SchemaVersion: 2, MediaType: upstreamtest.OCIManifest}
			m.Config = w.AddJSON(upstreamtest.OCIConfig, amd64)
			m.Layers = []upstreamtest.Descriptor{{MediaType: upstreamtest.OCILayer, Digest: digest.FromString("huge"), Size: 1 << 60}}
			w.Tag("library/bad", "1", w.AddJSON(upstreamtest.OCIManifest, m).Digest)
		}},
		"a manifest of 100 MB": {Invalid, "too large", func(w *env, sent *atomic.Int64) {
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIManifest, []byte("{}")))
			w.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodHead {
					return false
				}
				endless(sent)(rw)
				return true
			}
		}},
		"an index of 10,000 manifests": {Invalid, "an index of 10000 manifests", func(w *env, _ *atomic.Int64) {
			var all []upstreamtest.Descriptor
			for i := range 10_000 {
				all = append(all, upstreamtest.Descriptor{MediaType: upstreamtest.OCIManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1, Platform: &amd64})
			}
			w.Tag("library/bad", "1", w.AddIndex(all...))
		}},
		"an index of indexes": {Invalid, "is not an image's", func(w *env, _ *atomic.Int64) {
			inner := w.AddIndex(w.AddImage(amd64, "x", []byte("layer")))
			w.Tag("library/bad", "1", w.AddIndex(upstreamtest.Descriptor{MediaType: upstreamtest.OCIIndex, Digest: inner, Size: 1}))
		}},
		"a lie about a tag's digest": {Invalid, "the registry sent sha256:", func(w *env, _ *atomic.Int64) {
			w.pushIndex("bad", "1", []byte("layer"))
			w.AddAs(digest.FromString("lie"), upstreamtest.OCIIndex, []byte(`{"schemaVersion":2}`))
			w.Tag("library/bad", "1", digest.FromString("lie"))
		}},
		"a digest that is none": {Invalid, "Docker-Content-Digest", func(w *env, _ *atomic.Int64) {
			w.Fault = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Docker-Content-Digest", "../../etc/passwd")
				return true
			}
		}},
		"one blob with two sizes": {Invalid, "is said to have", func(w *env, _ *atomic.Int64) {
			m := upstreamtest.Manifest{SchemaVersion: 2, MediaType: upstreamtest.OCIManifest}
			m.Config = w.AddJSON(upstreamtest.OCIConfig, amd64)
			l := upstreamtest.Descriptor{MediaType: upstreamtest.OCILayer, Digest: w.Add(upstreamtest.OCILayer, []byte("layer")), Size: 5}
			other := l
			other.Size = 6
			m.Layers = []upstreamtest.Descriptor{l, other}
			w.Tag("library/bad", "1", w.AddJSON(upstreamtest.OCIManifest, m).Digest)
		}},
		"an index that is an image too": {Invalid, "both an index and an image's manifest", func(w *env, _ *atomic.Int64) {
			part := w.AddImage(amd64, "x", []byte("layer"))
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIIndex, fmt.Appendf(nil,
				`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}],"config":{},"layers":[]}`,
				upstreamtest.OCIIndex, part.MediaType, part.Digest, part.Size)))
		}},
		"an image that says it is an index": {Invalid, "not of its media type", func(w *env, _ *atomic.Int64) {
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIIndex, []byte(`{"schemaVersion":2,"mediaType":"`+upstreamtest.OCIIndex+`","config":{},"layers":[]}`)))
		}},
		"an image in an index's Content-Type": {Invalid, "Content-Type", func(w *env, _ *atomic.Int64) {
			w.AddImage(amd64, "x", []byte("layer"))
			m := upstreamtest.Manifest{SchemaVersion: 2, MediaType: upstreamtest.OCIManifest, Config: w.AddJSON(upstreamtest.OCIConfig, amd64)}
			w.Tag("library/bad", "1", w.AddJSON(upstreamtest.OCIIndex, m).Digest)
		}},
		"an index of no type in an image's Content-Type": {Invalid, "not of its media type", func(w *env, _ *atomic.Int64) {
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIManifest, []byte(`{"schemaVersion":2,"manifests":[]}`)))
		}},
		"a key twice": {Invalid, `the key "layers" is there twice`, func(w *env, _ *atomic.Int64) {
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIManifest, []byte(`{"schemaVersion":2,"mediaType":"`+upstreamtest.OCIManifest+`","config":{},"layers":[],"layers":[]}`)))
		}},
		"a key twice, escaped": {Invalid, `the key "digest" is there twice`, func(w *env, _ *atomic.Int64) {
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIManifest, []byte(`{"schemaVersion":2,"mediaType":"`+upstreamtest.OCIManifest+`","config":{"digest":"a","d\u0069gest":"b"},"layers":[]}`)))
		}},
		"a key in other letters": {Invalid, `the key "Layers" is no member`, func(w *env, _ *atomic.Int64) {
			w.Tag("library/bad", "1", w.Add(upstreamtest.OCIManifest, []byte(`{"schemaVersion":2,"mediaType":"`+upstreamtest.OCIManifest+`","config":{},"Layers":[]}`)))
		}},
		"a layer that calls itself a manifest": {Invalid, "mirrors would serve it as a manifest", func(w *env, _ *atomic.Int64) {
			m := upstreamtest.Manifest{SchemaVersion: 2, MediaType: upstreamtest.OCIManifest, Config: w.AddJSON(upstreamtest.OCIConfig, amd64)}
			m.Layers = []upstreamtest.Descriptor{w.AddJSON(upstreamtest.OCIManifest, map[string]string{"not": "a manifest"})}
			w.Tag("library/bad", "1", w.AddJSON(upstreamtest.OCIManifest, m).Digest)
		}},
		"a manifest that is another one's layer": {Invalid, "is said to be", func(w *env, _ *atomic.Int64) {
			inner := w.AddImage(amd64, "x", []byte("inner"))
			m := upstreamtest.Manifest{SchemaVersion: 2, MediaType: upstreamtest.OCIManifest, Config: w.AddJSON(upstreamtest.OCIConfig, arm64)}
			m.Layers = []upstreamtest.Descriptor{{MediaType: upstreamtest.OCILayer, Digest: inner.Digest, Size: inner.Size}}
			w.Tag("library/bad", "1", w.AddIndex(w.AddJSON(upstreamtest.OCIManifest, m), inner))
		}},
		"a redirect that never ends": {Invalid, "redirects more than 5 times", func(w *env, _ *atomic.Int64) {
			w.pushIndex("bad", "1", []byte("layer"))
			w.Fault = only("/blobs/", func(rw http.ResponseWriter) { rw.Header().Set("Location", "?again"); rw.WriteHeader(http.StatusFound) })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newEnv(t)
			var sent atomic.Int64
			tc.make(w, &sent)
			over := w.untilOver()
			_, err := w.copy(t, "bad:1")
			if kindOf(err) != tc.kind || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("refused with %v\nwant kind %d, %q", err, tc.kind, tc.says)
			}
			if n := sent.Load(); n > 64<<20 {
				t.Errorf("%d bytes were read", n)
			}
			left, _ := os.ReadDir(filepath.Join(w.storeDir, "ingest"))
			if len(left) > 0 || w.store.Has(digest.FromString("layer")) && tc.says != "is not an image's" {
				t.Errorf("left in the store: %v", left)
			}
			// The rest of the registry's images do not suffer.
			over.Store(true)
			w.pushIndex("good", "1", []byte("good"))
			if _, err := w.copy(t, "good:1"); err != nil {
				t.Errorf("a good image after it: %v", err)
			}
		})
	}
}

// untilOver makes the fault end on demand. The registry's field may not be
// changed while requests that were given up are still being answered.
func (w *env) untilOver() *atomic.Bool {
	over, fault := new(atomic.Bool), w.Fault
	if fault != nil {
		w.Fault = func(rw http.ResponseWriter, r *http.Request) bool { return !over.Load() && fault(rw, r) }
	}
	return over
}

// only answers the requests whose path holds a part.
func only(part string, answer func(http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
	return func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, part) {
			return false
		}
		answer(rw)
		return true
	}
}

func TestNamesThatClimbAreNotAskedFor(t *testing.T) {
	w := newEnv(t)
	var requests atomic.Int32
	w.Fault = func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return false }
	for _, repository := range []string{"../../etc/passwd", "library/../x", "a//b", "library/x?y=z", "library/x#y", "", "x/../../v2/y"} {
		_, err := w.client.Resolve(t.Context(), ledger.Image{Registry: "docker.io", Repository: repository, Tag: "1"})
		if kindOf(err) != NotFound {
			t.Errorf("%q: %v", repository, err)
		}
	}
	if requests.Load() > 0 {
		t.Error("the registry was asked")
	}
}

// A registry keeps its blobs elsewhere: they are fetched there, and the token
// stays at home.
func TestRedirectsDoNotTakeCredentialsAlong(t *testing.T) {
	w := newEnv(t)
	w.Username, w.Password = "robot", "secret"
	for name, value := range map[string]string{usernameFile: "robot", passwordFile: "secret"} {
		if err := os.WriteFile(filepath.Join(w.secretDir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.pushIndex("moved", "1", []byte("layer"))
	var leaked atomic.Value
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			leaked.Store(a)
		}
		bare := upstreamtest.New()
		bare.NoAuth = true
		bare.Add(upstreamtest.OCILayer, []byte("layer"))
		bare.ServeHTTP(rw, r)
	}))
	defer elsewhere.Close()
	w.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, digest.FromString("layer").String()) {
			return false
		}
		http.Redirect(rw, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}
	if _, err := w.copy(t, "moved:1"); err != nil {
		t.Fatal(err)
	}
	if a := leaked.Load(); a != nil {
		t.Errorf("the other host was sent %v", a)
	}
}

func TestRedirectsAreChecked(t *testing.T) {
	for to, want := range map[string]string{
		"https://cdn.example/blob":     "",
		"http://cdn.example/blob":      "out of TLS",
		"https://169.254.169.254/meta": "into a private network",
		"https://10.0.0.1/":            "into a private network",
		"https://[::1]:8080/":          "into a private network",
		"https://localhost/":           "into a private network",
	} {
		from, _ := url.Parse("https://registry.example/v2/")
		target, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		err = checkRedirect(&http.Request{URL: target}, []*http.Request{{URL: from}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", to, err, want)
		}
	}
}

func TestCAsAreTrustedWhenTheyAreGiven(t *testing.T) {
	registry := upstreamtest.New()
	registry.Tag("library/a", "1", registry.AddIndex(registry.AddImage(amd64, "a", []byte("layer"))))
	server := httptest.NewTLSServer(registry)
	defer server.Close()
	server.Config.ErrorLog = nil
	dir := t.TempDir()
	resolve := func() error {
		c, err := New(Config{Name: "docker.io", Endpoint: server.URL, SecretDir: dir})
		if err != nil {
			return err
		}
		_, err = c.Resolve(t.Context(), image(t, "a:1"))
		return err
	}
	if err := resolve(); kindOf(err) != Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown CA: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, caFile), pemOf(server.TLS), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err != nil {
		t.Errorf("a known CA: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, caFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
		t.Errorf("a CA that is none: %v", err)
	}
}

func pemOf(c *tls.Config) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificates[0].Certificate[0]})
}

func TestPace(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	g := &governor{now: func() time.Time { return now }}
	header := func(remaining int) *http.Response {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{
			"Ratelimit-Limit": {"100;w=21600"}, "Ratelimit-Remaining": {fmt.Sprintf("%d;w=21600", remaining)},
		}}
	}
	if g.take(true) != 0 {
		t.Error("an upstream that told of no limit is waited for")
	}
	g.note(header(100))
	for i := range 49 {
		if wait := g.take(true); wait != 0 {
			t.Fatalf("pull %d of a full window waits %s", i, wait)
		}
	}
	g.note(header(50))
	if wait := g.take(true); wait != 0 {
		t.Errorf("the first pull of the second half waits %s", wait)
	}
	if wait := g.take(true); wait != 216*time.Second {
		t.Errorf("then a pull waits %s, want 216 s: 100 in 6 h", wait)
	}
	if wait := g.take(false); wait != 0 {
		t.Errorf("HEAD is free, and waits %s", wait)
	}
	now = now.Add(210 * time.Second)
	if wait := g.take(true); wait != 6*time.Second {
		t.Errorf("soon its turn comes: it waits %s", wait)
	}
	g.note(&http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"120"}}})
	if wait := g.take(false); wait != 2*time.Minute {
		t.Errorf("after a 429 even HEAD waits, %s", wait)
	}
}

func TestLimitsAreParsed(t *testing.T) {
	for s, want := range map[string]string{
		"100;w=21600": "100 6h0m0s true", "76": "76 0s true", "": "0 0s false", "-1;w=5": "0 0s false", "5;w=99999999999": "5 0s true", "x;w=1": "0 0s false",
	} {
		n, window, ok := parseLimit(s)
		if got := fmt.Sprint(n, " ", window, " ", ok); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
	now := time.Unix(1_000_000, 0)
	for s, want := range map[string]time.Duration{
		"5": 5 * time.Second, "": defaultRetryAfter, "x": defaultRetryAfter, "0": time.Second, "99999999": maxRetryAfter,
		now.Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("Retry-After %q: %s, want %s", s, got, want)
		}
	}
}
