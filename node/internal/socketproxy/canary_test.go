package socketproxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// containerdSocket listens where a containerd of this machine could.
func containerdSocket(t *testing.T, dir string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "containerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// asker asks a proxy, by a connection for each request.
type asker struct {
	*testing.T
	addr string
}

func (a asker) ask(method, path, ns string) (status int, header http.Header, body []byte) {
	a.Helper()
	req, err := http.NewRequestWithContext(a.Context(), method, "http://"+a.addr+path+"?"+url.Values{"ns": {ns}}.Encode(), nil)
	if err != nil {
		a.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		a.Fatal(err)
	}
	return resp.StatusCode, resp.Header, body
}

// proof is what the kubelet gets when it asks for the proof.
func (a asker) proof(name string) string {
	a.Helper()
	status, _, body := a.ask("GET", ProofPath+name, "")
	return fmt.Sprint(status, " ", strings.TrimSpace(string(body)))
}

func (a asker) blob(kind string, d v1.Descriptor) []byte {
	a.Helper()
	status, header, body := a.ask("GET", "/v2/canary/"+kind+"/"+d.Digest.String(), canary.Registry("m1"))
	if status != http.StatusOK || header.Get("Content-Type") != d.MediaType || digest.FromBytes(body) != d.Digest {
		a.Fatalf("%s %s: %d, %v, %d bytes", kind, d.Digest, status, header, len(body))
	}
	return body
}

func manifestPath() string { return "/v2/canary/manifests/" + canary.Digest().String() }

const (
	isProven   = "200 containerd asks this mirror"
	notAsked   = "503 containerd has not asked this mirror for the canary yet"
	wasStarted = "503 containerd was started since it asked this mirror for the canary"
)

// What is asked for the canary's manifest is proof until containerd starts again,
// whatever becomes of the proxy meanwhile, and of the mirror, which does not run.
func TestCanaryIsProofUntilContainerdStarts(t *testing.T) {
	dir, run := folder(t), folder(t)
	socket := containerdSocket(t, run)
	c := config(t, dir)
	c.Canary = "m1"
	stop := start(t, c)
	awaitPort(t, c.Addr)
	a := asker{t, c.Addr}
	want := func(when, want string) {
		t.Helper()
		if got := a.proof("m1"); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	asks := func() {
		t.Helper()
		status, header, body := a.ask("HEAD", manifestPath(), canary.Registry("m1"))
		if status != http.StatusOK || len(body) != 0 || header.Get("Docker-Content-Digest") != canary.Digest().String() || header.Get("Content-Length") == "0" {
			t.Fatalf("the canary's manifest: %d, %v", status, header)
		}
	}
	want("at first", notAsked)
	asks()
	want("when containerd has asked", isProven)
	_ = socket.Close()
	want("while containerd does not run", wasStarted)
	containerdSocket(t, run)
	want("when containerd runs again", wasStarted)
	asks()
	want("when it has asked again", isProven)
	stop()
	start(t, c)
	awaitPort(t, c.Addr)
	want("of the next frontend", isProven)
	other := c
	other.Canary, other.Addr, other.Wait = "m2", freeAddr(t), 0
	start(t, other)
	awaitPort(t, other.Addr)
	if got := (asker{t, other.Addr}).proof("m2"); got != wasStarted {
		t.Errorf("another mirror's proof counts: %s", got)
	}
}

// A connection to a containerd's socket is not a new start of it.
func TestClientsOfContainerdAreNoStart(t *testing.T) {
	run := folder(t)
	socket := containerdSocket(t, run)
	before, err := containerdStarted()
	if err != nil || !strings.Contains(before, run) {
		t.Fatalf("%v: containerd at %s is not among:\n%s", err, run, before)
	}
	conn, err := net.Dial("unix", socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if after, err := containerdStarted(); err != nil || after != before {
		t.Errorf("%v: before a client came:\n%s\nthen:\n%s", err, before, after)
	}
}

// The canary can be had whole, and nothing else by its name; what is another's goes
// to the mirror.
func TestCanaryIsAllThatItServes(t *testing.T) {
	dir := folder(t)
	c := config(t, dir)
	c.Canary = "m1"
	start(t, c)
	mirror(t, dir, say("the mirror"))
	awaitPort(t, c.Addr)
	a := asker{t, c.Addr}
	var index v1.Index
	decode := func(data []byte, into any) {
		t.Helper()
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	decode(a.blob("manifests", v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: canary.Digest()}), &index)
	for _, m := range index.Manifests {
		var manifest v1.Manifest
		decode(a.blob("manifests", m), &manifest)
		for _, d := range append(manifest.Layers, manifest.Config) {
			a.blob("blobs", d)
		}
	}
	own := canary.Registry("m1")
	for name, r := range map[string]struct {
		method, path, ns string
		status           int
		mirror           bool
	}{
		"another digest":        {"GET", "/v2/canary/blobs/" + digest.FromString("x").String(), own, 404, false},
		"a tag":                 {"GET", "/v2/canary/manifests/latest", own, 404, false},
		"another repository":    {"GET", "/v2/library/alpine/manifests/" + canary.Digest().String(), own, 404, false},
		"an upload":             {"POST", "/v2/canary/blobs/uploads/", own, 405, false},
		"another mirror's":      {"GET", manifestPath(), canary.Registry("m2"), 200, true},
		"another registry's":    {"GET", manifestPath(), "docker.io", 200, true},
		"one of a like name":    {"GET", "/v2/m1/manifests/m1", "m1.example", 200, true},
		"another mirror's word": {"GET", ProofPath + "m2", "", 200, true},
	} {
		status, _, body := a.ask(r.method, r.path, r.ns)
		if status != r.status || (string(body) == "the mirror") != r.mirror {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// A request that arrives in parts is answered too.
func TestCanaryIsAnsweredInParts(t *testing.T) {
	c := config(t, folder(t))
	c.Canary = "m1"
	start(t, c)
	awaitPort(t, c.Addr)
	conn, err := net.Dial("tcp", c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, part := range []string{"GET " + ProofPath + "m1 HTTP/1.1\r\nHost: ", "m1\r\n\r\n"} {
		if _, err := io.WriteString(conn, part); err != nil {
			t.Fatal(err)
		}
	}
	said, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 503 ") || !strings.Contains(string(said), "has not asked") {
		t.Errorf("%v: %s", err, said)
	}
}

// A proof that cannot be kept is none.
func TestCanaryWithoutADisk(t *testing.T) {
	dir := folder(t)
	if err := os.Mkdir(filepath.Join(dir, proofFile), 0o755); err != nil { // nothing can be written in its place
		t.Fatal(err)
	}
	c := config(t, dir)
	c.Canary = "m1"
	start(t, c)
	awaitPort(t, c.Addr)
	a := asker{t, c.Addr}
	if status, _, _ := a.ask("GET", manifestPath(), canary.Registry("m1")); status != http.StatusOK {
		t.Errorf("the canary: %d", status)
	}
	if got := a.proof("m1"); !strings.HasPrefix(got, "503 ") {
		t.Errorf("the proof: %s", got)
	}
}

func TestCanaryNames(t *testing.T) {
	c := config(t, folder(t))
	for _, name := range []string{"m.1", "M1", "-m", "m/1", strings.Repeat("m", 64)} {
		c.Canary = name
		if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "lower-case") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
