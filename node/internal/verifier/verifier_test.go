package verifier

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// node is a node whose ledger the tests write, and which may lie.
type node struct {
	*ledger.Writer
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
	if n.Writer, err = ledger.OpenWriter(t.Context(), n.dir, keys, slog.New(slog.DiscardHandler)); err != nil {
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
	check("a tag that leads to another's digest", "docker.io/library/alpine:3.20", old, "does not record that docker.io/library/alpine:3.20 is "+old.String())
	check("another repository's digest", "docker.io/library/busybox@"+good.String(), good, "is not on the ledger")
	check("an unknown digest", "docker.io/library/alpine:3.20", unknown, "does not record")
	check("a withdrawn image", "docker.io/library/bad:1", bad, "contains malware")
	check("a withdrawn image, by its digest", "docker.io/library/bad@"+bad.String(), bad, "contains malware")
	check("another registry", "quay.io/library/alpine:3.20", unknown, "")

	n.lie.Store(strings.NewReplacer(good.String(), unknown.String()))
	check("a node that put another digest into a block", "docker.io/library/alpine@"+unknown.String(), unknown, "is not on the ledger")
	// The listing is asked for by digest: this node lists the block all the same.
	n.lie.Store(strings.NewReplacer("[]", `[`+n.listed(t, good, unknown)+`]`, good.String(), unknown.String()))
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

// listed is a block as the node lists it, with another digest in it.
func (n *node) listed(t *testing.T, is, becomes digest.Digest) string {
	t.Helper()
	answer := httptest.NewRecorder()
	n.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/api/v1/artifacts?digest="+is.String(), nil))
	list := strings.ReplaceAll(strings.TrimSpace(answer.Body.String()), is.String(), becomes.String())
	return strings.Trim(list, "[]")
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
