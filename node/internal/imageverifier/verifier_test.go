package imageverifier

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// node is a node whose ledger the tests write, and which may lie.
type node struct {
	*replica.Writer
	dir string
	lie atomic.Pointer[strings.Replacer] // applied to its answers
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	lie := n.lie.Load()
	if lie == nil {
		n.Handler().ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	n.Handler().ServeHTTP(answer, r)
	w.WriteHeader(answer.Code)
	_, _ = lie.WriteString(w, answer.Body.String())
}

func (n *node) open(t *testing.T, keys string) {
	t.Helper()
	if n.Writer != nil {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if n.Writer, err = replica.OpenWriter(t.Context(), n.dir, keys, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w := n.Writer
	t.Cleanup(func() { _ = w.Close() })
}

func (n *node) append(t *testing.T, image string) (d digest.Digest, height int64) {
	t.Helper()
	d = digest.FromString("the content of " + image)
	height, err := n.Append(t.Context(), &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/library/" + image, Digest: d,
		MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 1,
		Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: d, Config: digest.FromString("config"), Size: 1}},
		Pieces:    digest.FromString("pieces"), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, height
}

func TestVerify(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/verifier")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: t.TempDir()}
	n.open(t, skey)
	good, _ := n.append(t, "alpine:3.20")
	old, _ := n.append(t, "alpine:3.10")
	bad, height := n.append(t, "bad:1")
	if _, err := n.Revoke(t.Context(), height, "contains malware", time.Now()); err != nil {
		t.Fatal(err)
	}
	unknown := digest.FromString("unknown")
	server := httptest.NewServer(n)
	defer server.Close()
	c := &Config{Node: server.URL, LedgerKey: vkey, Registries: []string{"docker.io"}}

	check := func(what, image string, d digest.Digest, want string) {
		t.Helper()
		_, err := c.Verify(t.Context(), image, d)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	check("a tag", "docker.io/library/alpine:3.20", good, "")
	check("a digest", "docker.io/library/alpine@"+good.String(), good, "")
	check("a tag with a digest, which counts", "docker.io/library/alpine:3.20@"+old.String(), old, "")
	check("a tag that leads to another's digest", "docker.io/library/alpine:3.20", old, "records "+good.String()+", and not "+old.String())
	check("another repository's digest", "docker.io/library/busybox@"+good.String(), good, "is not on the ledger")
	check("an unknown digest", "docker.io/library/alpine:3.20", unknown, "records "+good.String()+", and not "+unknown.String())
	check("a withdrawn image", "docker.io/library/bad:1", bad, "contains malware")
	check("a withdrawn image, by its digest", "docker.io/library/bad@"+bad.String(), bad, "contains malware")
	check("another registry", "quay.io/library/alpine:3.20", unknown, "")

	n.lie.Store(strings.NewReplacer(good.String(), unknown.String()))
	check("a node that put another digest into a block", "docker.io/library/alpine@"+unknown.String(), unknown, "is not on the ledger")
	n.lie.Store(strings.NewReplacer(good.String(), unknown.String()))
	check("a node with an altered block", "docker.io/library/alpine:3.20", unknown, "inclusion proof")
	n.lie.Store(strings.NewReplacer(`"revokedBy":3`, `"revokedBy":0`))
	check("a node that gives a wrong reason", "docker.io/library/bad:1", bad, "cannot prove it")
	n.lie.Store(nil)

	next, nextKey, err := ledger.GenerateKey("ledger.example/verifier")
	if err != nil {
		t.Fatal(err)
	}
	n.open(t, skey+"\n"+next)
	both, _ := n.append(t, "later:1")
	check("while both keys sign", "docker.io/library/later:1", both, "")
	n.open(t, next)
	later, _ := n.append(t, "later:2")
	// What a node says of later keys a thief with the earlier one could say too.
	check("after the key was rotated, by the old key", "docker.io/library/later:2", later, "pin the newest one")
	c.LedgerKey = nextKey
	check("by the new key", "docker.io/library/alpine:3.20", good, "")
	check("by the new key", "docker.io/library/later:2", later, "")
	_, c.LedgerKey, err = ledger.GenerateKey("ledger.example/verifier")
	if err != nil {
		t.Fatal(err)
	}
	check("by a stranger's key", "docker.io/library/alpine:3.20", good, "inclusion proof")
}

// The parts of an image are not images, an older digest of a tag is not the
// tag's, and a withdrawn digest is refused under each name.
func TestVerifyTakesNothingElseForTheImage(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/verifier")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: t.TempDir()}
	n.open(t, skey)
	server := httptest.NewServer(n)
	defer server.Close()
	c := &Config{Node: server.URL, LedgerKey: vkey, Registries: []string{"docker.io"}}
	add := func(tag, content string) *ledger.AddArtifact {
		sum := func(part string) digest.Digest { return digest.FromString(content + part) }
		a := &ledger.AddArtifact{
			Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/library/app:" + tag, Digest: sum("index"),
			MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
			Platforms: []ledger.Platform{
				{Platform: "linux/amd64", Digest: sum("amd64"), Config: sum("amd64 config"), Size: 1},
				{Platform: "linux/arm64", Digest: sum("arm64"), Config: sum("arm64 config"), Size: 1},
			},
			Pieces: sum("pieces"), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
		}
		if _, err := n.Append(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	was, is := add("1", "old"), add("1", "new")
	check := func(what, image string, d digest.Digest, want string) {
		t.Helper()
		said, err := c.Verify(t.Context(), image, d)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v, want %q", what, said, err, want)
		}
	}
	const tag, repository = "docker.io/library/app:1", "docker.io/library/app@"
	check("the index", tag, is.Digest, "")
	check("a platform", tag, is.Platforms[1].Digest, "")
	check("the tag's older index", tag, was.Digest, "records "+is.Digest.String())
	check("a platform of it", tag, was.Platforms[0].Digest, "records "+is.Digest.String())
	check("an older index, by its digest", repository+was.Digest.String(), was.Digest, "")
	for what, d := range map[string]digest.Digest{"a config": is.Platforms[0].Config, "a piece list": is.Pieces} {
		check(what, tag, d, "and not "+d.String())
		check(what+" by its digest", repository+d.String(), d, "not on the ledger as an image")
	}
	for _, name := range []string{"registry-1.docker.io/library/app:1", "index.docker.io/library/app:1", "Docker.IO:443/library/app:1"} {
		check(name, name, is.Digest, "")
		check(name, name, was.Digest, "records "+is.Digest.String())
	}
	if said, err := c.Verify(t.Context(), "mirror.gcr.io/library/app:1", was.Digest); err != nil || !strings.Contains(said, "copies of Docker Hub's images") {
		t.Errorf("a copy of Docker Hub: %q, %v", said, err)
	}

	if _, err := n.RevokeDigest(t.Context(), "docker.io/library/app", is.Platforms[1].Digest, "a bad machine", time.Now()); err != nil {
		t.Fatal(err)
	}
	check("a withdrawn platform", tag, is.Platforms[1].Digest, "a bad machine")
	check("a withdrawn platform, by its digest", repository+is.Platforms[1].Digest.String(), is.Platforms[1].Digest, "a bad machine")
	check("the other platform", tag, is.Platforms[0].Digest, "")
	check("the index of both", tag, is.Digest, "")
	add("2", "new")
	if _, err := n.RevokeDigest(t.Context(), "docker.io/library/app", is.Digest, "a backdoor", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{is.Digest, is.Platforms[0].Digest} {
		check("withdrawn, by its tag", tag, d, "a backdoor")
		check("withdrawn, by another tag", "docker.io/library/app:2", d, "a backdoor")
		check("withdrawn, by its digest", repository+d.String(), d, "a backdoor")
	}
}

// No setting lets through what it seems to name.
func TestSettingsDoNotFailOpen(t *testing.T) {
	_, vkey, err := ledger.GenerateKey("ledger.example/verifier")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.json")
	for registries, want := range map[string]string{
		`"registries": ["docker.io"]`:                           "docker.io",
		`"registries": [" Docker.IO "]`:                         "docker.io",
		`"registries": ["registry-1.docker.io"]`:                "docker.io",
		`"registries": ["index.docker.io:443", "Quay.io"]`:      "docker.io quay.io",
		`"registries": ["https://docker.io"]`:                   "",
		`"registries": ["docker.io/library"]`:                   "",
		`"registries": ["docker"]`:                              "",
		`"registries": ["docker.io", ""]`:                       "",
		`"registries": ["docker.io,quay.io"]`:                   "",
		`"registries": []`:                                      "",
		`"registry": "docker.io"`:                               "",
		`"registries": ["docker.io"], "registrys": ["quay.io"]`: "",
	} {
		if err := os.WriteFile(file, []byte(`{"node": "http://127.0.0.1:8080", "ledgerKey": "`+vkey+`", `+registries+`}`), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(file)
		if (err == nil) != (want != "") || err == nil && strings.Join(c.Registries, " ") != want {
			t.Errorf("%s: %+v, %v, want %q", registries, c, err, want)
		}
	}
}

func TestInstallGoesOnAfterACrash(t *testing.T) {
	_, vkey, err := ledger.GenerateKey("ledger.example/verifier")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &Config{Node: "http://127.0.0.1:8080", LedgerKey: vkey, Registries: []string{"docker.io"}}
	if err := Install(c, dir+"/config.json", dir+"/bin", "/old/pyrsia"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/older/pyrsia", dir+"/bin/pyrsia.new"); err != nil { // a killed run's
		t.Fatal(err)
	}
	if err := Install(c, dir+"/config.json", dir+"/bin", "/new/pyrsia"); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(dir + "/bin/pyrsia"); err != nil || to != "/new/pyrsia" {
		t.Errorf("the program is %s, %v", to, err)
	}
}
