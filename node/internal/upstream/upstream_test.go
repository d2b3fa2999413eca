package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// env is an upstream registry, a client of it, and a publisher's store.
type env struct {
	*upstreamtest.Registry
	server    *httptest.Server
	client    *Registry
	store     *store.Store
	storeDir  string
	secretDir string
}

func newEnv(t *testing.T) *env {
	t.Helper()
	w := &env{Registry: upstreamtest.New(), storeDir: t.TempDir(), secretDir: t.TempDir()}
	w.server = httptest.NewServer(w.Registry)
	t.Cleanup(w.server.Close)
	var err error
	if w.client, err = New(Config{Name: "docker.io", Endpoint: w.server.URL, SecretDir: w.secretDir}); err != nil {
		t.Fatal(err)
	}
	if w.store, err = store.Open(w.storeDir, store.Config{Pinned: true, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	return w
}

func image(t *testing.T, name string) ledger.Image {
	t.Helper()
	i, err := ledger.ParseImage(name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// copy resolves a tag and copies its image, as a publisher does.
func (w *env) copy(t *testing.T, name string, platforms ...string) (*ledger.AddArtifact, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	i := image(t, name)
	d, err := w.client.Resolve(ctx, i)
	if err != nil {
		return nil, err
	}
	return w.client.Copy(ctx, i, d, Selection{Platforms: platforms}, w.store, new(Progress))
}

var (
	amd64 = upstreamtest.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = upstreamtest.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
)

// pushIndex makes an image for two platforms.
func (w *env) pushIndex(name, tag string, layer []byte) digest.Digest {
	d := w.AddIndex(w.AddImage(amd64, name, layer), w.AddImage(arm64, name, append([]byte("arm64 "), layer...)))
	w.Tag("library/"+name, tag, d)
	return d
}

func kindOf(err error) Kind {
	if u, ok := errors.AsType[*Error](err); ok {
		return u.Kind
	}
	return -1
}

func TestCopyTakesAllThatAnImageIs(t *testing.T) {
	w := newEnv(t)
	d := w.pushIndex("alpine", "3.20", []byte("layer"))
	entry, err := w.copy(t, "alpine:3.20")
	if err != nil {
		t.Fatal(err)
	}
	if entry.Digest != d || len(entry.Platforms) != 2 || entry.Platforms[1].Platform != "linux/arm64/v8" {
		t.Errorf("entry: %+v", entry)
	}
	before := w.Counts()
	if _, err := w.copy(t, "alpine:3.20"); err != nil {
		t.Fatal(err)
	}
	after := w.Counts()
	if after.Manifests != before.Manifests || after.Blobs != before.Blobs || after.Head != before.Head+1 {
		t.Errorf("a second copy asked again: %+v, before %+v: want one HEAD", after, before)
	}
}

// A disk that has room for each layer, and not for all, fails the copy as what it
// is, is not taken for a registry that fails, and is free again.
func TestDiskThatFillsMeanwhile(t *testing.T) {
	w := newEnv(t)
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	var err error
	if w.store, err = store.Open(root, store.Config{Pinned: true, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	big := func(c byte) []byte { return bytes.Repeat([]byte{c}, 40<<20) }
	w.Tag("library/big", "1", w.AddIndex(w.AddImage(amd64, "big", big('a'), big('b'))))
	if _, err := w.copy(t, "big:1"); kindOf(err) != NoSpace || !strings.Contains(err.Error(), "larger volume") {
		t.Errorf("copy: %v, want that there is no space", err)
	}
	w.pushIndex("small", "1", []byte("layer"))
	if _, err := w.copy(t, "small:1"); err != nil {
		t.Errorf("what has room: %v", err)
	}
}

func TestTagThatMovesMeanwhileDoesNotMix(t *testing.T) {
	w := newEnv(t)
	first := w.pushIndex("moving", "1", []byte("first"))
	w.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.pushIndex("moving", "1", []byte("second"))
		}
		return false
	}
	entry, err := w.copy(t, "moving:1")
	if err != nil || entry.Digest != first {
		t.Errorf("copied %v, %v, want %s", entry, err, first)
	}
}

func TestWhatPassesIsTriedAgain(t *testing.T) {
	w := newEnv(t)
	layer := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	w.pushIndex("flaky", "1", layer)
	var requests atomic.Int32
	w.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		switch n := requests.Add(1); {
		case n%3 == 0 && !strings.Contains(r.URL.Path, "/blobs/"):
			w.Fail(rw)
			return true
		case n == 4:
			w.Throttle(rw, 1)
			return true
		case strings.HasSuffix(r.URL.Path, digest.FromBytes(layer).String()) && r.Header.Get("Range") == "":
			rw.Header().Set("Content-Length", fmt.Sprint(len(layer)))
			_, _ = rw.Write(layer[:len(layer)/2])
			panic(http.ErrAbortHandler) // the connection breaks
		}
		return false
	}
	entry, err := w.copy(t, "flaky:1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.store.ReadAll(t.Context(), digest.FromBytes(layer), 1<<21); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("the layer whose connection broke: %d bytes, %v", len(got), err)
	}
	if entry.Upstream == "" || w.Counts().Throttled != 1 {
		t.Errorf("entry %+v, counts %+v", entry, w.Counts())
	}
}

// What has rotted on the disk gets into no piece list, which is signed for ever.
func TestRottenContentIsFetchedAgain(t *testing.T) {
	w := newEnv(t)
	layer := bytes.Repeat([]byte("0123456789abcdef"), pieces.Size/16+1)
	w.pushIndex("rotten", "1", layer)
	first, err := w.copy(t, "rotten:1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.storeDir, "blobs", "sha256", digest.FromBytes(layer).Encoded())
	if err := os.WriteFile(file, append([]byte("X"), layer[1:]...), 0o644); err != nil {
		t.Fatal(err)
	}
	// A process that knows nothing of the blob.
	if w.client, err = New(Config{Name: "docker.io", Endpoint: w.server.URL}); err != nil {
		t.Fatal(err)
	}
	if w.store, err = store.Open(w.storeDir, store.Config{Pinned: true, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	blobs := w.Counts().Blobs
	again, err := w.copy(t, "rotten:1")
	if err != nil {
		t.Fatal(err)
	}
	if again.Pieces != first.Pieces || w.store.Corrupt() != 1 || w.Counts().Blobs != blobs+1 {
		t.Errorf("piece list %s, was %s; %d corrupt, %d fetched again: want the same list, one and one", again.Pieces, first.Pieces, w.store.Corrupt(), w.Counts().Blobs-blobs)
	}
}

// Many tags of one image are copied by as many jobs at a time, of which one asks
// the upstream.
func TestWhatIsSharedIsFetchedOnce(t *testing.T) {
	w := newEnv(t)
	d := w.pushIndex("shared", "1", bytes.Repeat([]byte("0123456789abcdef"), pieces.Size/16+1))
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			if _, err := w.client.Copy(t.Context(), image(t, "shared:1"), d, Selection{}, w.store, new(Progress)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := w.Counts(); got.Manifests != 3 || got.Blobs != 4 {
		t.Errorf("%d manifests and %d blobs were fetched: want the index, its two manifests, two configs and two layers, each once", got.Manifests, got.Blobs)
	}
}

func TestAWaitThatIsLongIsToldAtOnce(t *testing.T) {
	w := newEnv(t)
	w.pushIndex("limited", "1", []byte("layer"))
	var requests atomic.Int32
	w.Fault = func(rw http.ResponseWriter, _ *http.Request) bool {
		requests.Add(1)
		w.Throttle(rw, 3600)
		return true
	}
	for range 3 {
		_, err := w.copy(t, "limited:1")
		u, ok := errors.AsType[*Error](err)
		if !ok || u.Kind != RateLimited || u.RetryAfter < 59*time.Minute || u.RetryAfter > time.Hour {
			t.Fatalf("limited: %v", err)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests to a registry that asked to be left alone, want 1", n)
	}
}

func TestCredentialsMayBeRevokedAndRenewed(t *testing.T) {
	w := newEnv(t)
	w.Username, w.Password = "robot", "first"
	w.pushIndex("private", "1", []byte("layer"))
	login := func(user, password string) {
		for name, value := range map[string]string{usernameFile: user, passwordFile: password} {
			if err := os.WriteFile(filepath.Join(w.secretDir, name), []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.copy(t, "private:1"); kindOf(err) != Unauthorized {
		t.Errorf("without credentials: %v", err)
	}
	login("robot", "first")
	d, err := w.client.Resolve(t.Context(), image(t, "private:1"))
	if err != nil {
		t.Fatal(err)
	}
	w.Password = "second"
	w.RevokeTokens() // half-way: after the tag, before the content
	if _, err := w.client.Copy(t.Context(), image(t, "private:1"), d, Selection{}, w.store, new(Progress)); kindOf(err) != Unauthorized {
		t.Errorf("with revoked credentials: %v", err)
	}
	login("robot", "second")
	if _, err := w.copy(t, "private:1"); err != nil {
		t.Errorf("with new credentials: %v", err)
	}
}

func TestDockerConfigIsRead(t *testing.T) {
	for config, want := range map[string]string{
		`{"auths":{"https://index.docker.io/v1/":{"auth":"cm9ib3Q6c2VjcmV0"}}}`: "robot:secret",
		`{"auths":{"docker.io":{"username":"robot","password":"secret"}}}`:      "robot:secret",
		`{"auths":{"other.example":{"username":"robot","password":"secret"}}}`:  "",
		`{"auths":{"docker.io":{"auth":"no base64"}}}`:                          "",
		`not json`: "",
	} {
		got, err := parseDockerConfig([]byte(config), []string{"registry-1.docker.io", "docker.io", "index.docker.io"})
		if (err != nil) != (want == "") || err == nil && got.Username+":"+got.Password != want {
			t.Errorf("%s: %+v, %v, want %q", config, got, err, want)
		}
	}
}

// A limit applies to all that share it, and waiting for it is not a stall.
func TestBandwidthIsBounded(t *testing.T) {
	w := newEnv(t)
	limit := NewLimit(1 << 20)
	limited, err := New(Config{Name: "docker.io", Endpoint: w.server.URL, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("x", 256<<10)
	resp := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, content) }))
	defer resp.Close()
	start := time.Now()
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, resp.URL+"/v2/a/blobs/x", nil)
			if err != nil {
				t.Error(err)
				return
			}
			r, err := limited.guard.once(req, false)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Body.Close()
			if got, err := io.ReadAll(r.Body); err != nil || string(got) != content {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	group.Wait()
	// 512 KiB, of which one chunk is free, at 1 MiB/s: no machine is faster.
	if took, least := time.Since(start), 400*time.Millisecond; took < least {
		t.Errorf("took %s, want %s at least", took, least)
	}
}
