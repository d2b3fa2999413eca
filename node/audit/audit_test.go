package audit

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // Tessera's
	os.Exit(m.Run())
}

func of(name string) digest.Digest { return digest.FromString(name) }

// hex is a digest without its algorithm.
func hex(name string) string { return of(name).Encoded() }

// artifact is an image with two platforms, whose digests follow from a name.
func artifact(image, name string) *ledger.AddArtifact {
	a := &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: image, Digest: of(name), MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
		Pieces: of(name + "/pieces"), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
	}
	for _, p := range []string{"linux/amd64", "linux/arm64"} {
		a.Platforms = append(a.Platforms, ledger.Platform{Platform: p, Digest: of(name + p), Config: of(name + p + "/config"), Size: 1})
	}
	return a
}

// aLedger has images of every kind: see its body.
func aLedger(t *testing.T) (*replica.Writer, string) {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey("ledger.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	for _, a := range []*ledger.AddArtifact{
		artifact("docker.io/library/alpine:3.20", "alpine old"),
		artifact("docker.io/library/alpine:3.20", "alpine new"), // the tag has moved
		artifact("docker.io/library/busybox:latest", "busybox"),
		artifact("docker.io/library/bad:1", "bad"),
		artifact("docker.io/library/half:1", "half"),
		artifact("quay.io/org/tool:v1", "tool"),
		artifact("docker.io/library/copy:1", "copied"),
		artifact("docker.io/library/copied-and-bad:1", "bad elsewhere"),
		artifact("docker.io/library/other:1", "bad elsewhere"),
	} {
		if _, err := w.Append(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	for repository, d := range map[string]digest.Digest{
		"docker.io/library/bad": of("bad"), "docker.io/library/half": of("half" + "linux/arm64"), "docker.io/library/copied-and-bad": of("bad elsewhere"),
	} {
		if _, err := w.RevokeDigest(t.Context(), repository, d, "contains malware", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return w, vkey
}

func auditOf(t *testing.T, h http.Handler, vkey string) *Audit {
	t.Helper()
	node := httptest.NewServer(h)
	t.Cleanup(node.Close)
	v, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return &Audit{Node: client.New(node.URL, http.DefaultClient), Verifier: v, Registries: []string{"docker.io"}, MaxAge: time.Hour}
}

// Every way in which a runtime names an image leads to its block, and every state of an
// image to its verdict.
func TestVerdicts(t *testing.T) {
	w, vkey := aLedger(t)
	a := auditOf(t, w.Handler(), vkey)
	cases := []struct {
		name, id string
		verdict  Verdict
		as       string // the image that the block records; empty: there is none
		matched  string
		note     string // a part of it
	}{
		// containerd, with the digest of an index or of a platform.
		{"alpine:3.20", "docker.io/library/alpine@" + of("alpine new").String(), Vouched, "docker.io/library/alpine:3.20", "index", ""},
		{"alpine:3.20", "docker.io/library/alpine@" + of("alpine new"+"linux/arm64").String(), Vouched, "docker.io/library/alpine:3.20", "platform", ""},
		{"busybox", "docker.io/library/busybox@" + of("busybox").String(), Vouched, "docker.io/library/busybox:latest", "index", ""},
		// Docker by cri-dockerd, and an image ID alone, of docker or of an archive that was loaded.
		{"alpine:3.20", "docker-pullable://alpine@" + of("alpine new").String(), Vouched, "docker.io/library/alpine:3.20", "index", ""},
		{"alpine:3.20", "docker://" + of("alpine new"+"linux/amd64/config").String(), Vouched, "docker.io/library/alpine:3.20", "config", "its layers are not proven"},
		{"alpine:3.20", of("alpine new" + "linux/amd64/config").String(), Vouched, "docker.io/library/alpine:3.20", "config", "its layers are not proven"},
		// CRI-O, also with bare digits.
		{"docker.io/library/alpine:3.20", hex("alpine new" + "linux/amd64/config"), Vouched, "docker.io/library/alpine:3.20", "config", ""},
		// Through a mirror's port, and by the registry's other names.
		{"127.0.0.1:5001/library/alpine:3.20", "127.0.0.1:5001/library/alpine@" + of("alpine new").String(), Vouched, "docker.io/library/alpine:3.20", "index", ""},
		{"index.docker.io/library/alpine:3.20", "index.docker.io/library/alpine@" + of("alpine new").String(), Vouched, "docker.io/library/alpine:3.20", "index", ""},
		// A spec that is a digest.
		{"sha256:" + hex("alpine new"), "docker.io/library/alpine@" + of("alpine new").String(), Vouched, "docker.io/library/alpine:3.20", "index", ""},

		{"alpine:3.20", "docker.io/library/alpine@" + of("alpine old").String(), Moved, "docker.io/library/alpine:3.20", "index", ""},
		{"alpine:3.20@" + of("alpine old").String(), "docker.io/library/alpine@" + of("alpine old").String(), Vouched, "docker.io/library/alpine:3.20", "index", "the tag has moved on"},
		{"alpine@" + of("alpine old").String(), "docker.io/library/alpine@" + of("alpine old").String(), Vouched, "docker.io/library/alpine:3.20", "index", ""},

		{"bad:1", "docker.io/library/bad@" + of("bad").String(), Withdrawn, "docker.io/library/bad:1", "index", "contains malware"},
		{"bad:1", "docker.io/library/bad@" + of("bad"+"linux/amd64").String(), Withdrawn, "docker.io/library/bad:1", "platform", "contains malware"},
		{"half:1", "docker.io/library/half@" + of("half"+"linux/arm64").String(), Withdrawn, "docker.io/library/half:1", "platform", "contains malware"},
		{"half:1", of("half" + "linux/arm64/config").String(), Withdrawn, "docker.io/library/half:1", "config", "contains malware"},
		{"half:1", "docker.io/library/half@" + of("half"+"linux/amd64").String(), Vouched, "docker.io/library/half:1", "platform", ""},
		{"half:1", "docker.io/library/half@" + of("half").String(), Withdrawn, "docker.io/library/half:1", "index", "its platform linux/arm64 is withdrawn"},
		// Withdrawn in its own repository, and vouched for in another one: its own counts.
		{"copied-and-bad:1", "docker.io/library/copied-and-bad@" + of("bad elsewhere").String(), Withdrawn, "docker.io/library/copied-and-bad:1", "index", "contains malware"},
		{"other:1", "docker.io/library/other@" + of("bad elsewhere").String(), Vouched, "docker.io/library/other:1", "index", ""},

		{"mine:1", "docker.io/library/mine@" + of("copied").String(), Renamed, "docker.io/library/copy:1", "index", ""},
		{"registry.example/copy:1", "registry.example/copy@" + of("copied").String(), Renamed, "docker.io/library/copy:1", "index", ""},

		{"alpine:3.20", "docker.io/library/alpine@" + of("stranger").String(), Unknown, "", "", "its tag is on the ledger, with another digest"},
		{"alpine:edge", "docker.io/library/alpine@" + of("stranger").String(), Unknown, "", "", "its repository is on the ledger, without this digest"},
		{"nginx:1", "docker.io/library/nginx@" + of("stranger").String(), Unknown, "", "", "nothing of its repository is on the ledger"},
		{"", of("stranger").String(), Unknown, "", "", "no block names this digest"},
		{"alpine:3.20", "docker.io/library/alpine@" + of("alpine new/pieces").String(), Unknown, "docker.io/library/alpine:3.20", "", "not as an image"},
		{"alpine:3.20", "something", Unknown, "", "", "which has no digest"},
		{"not an image", "docker.io/library/alpine@" + of("alpine new").String(), Unknown, "", "", "more than one word"},

		// Any string may stand in a pod: it costs the answers to no other.
		{"alpine@sha256:0123456789ab", "", Unknown, "", "", "is no image's name with a whole digest"},
		{"\"alpine\"", "", Unknown, "", "", "is no image's name with a whole digest"},
		{"sha256:0123456789ab", "", Unknown, "", "", "is no image's name with a whole digest"},
		{"0123456789ab", "", Unknown, "", "", "nothing of its repository is on the ledger"},

		{"ghcr.io/org/x:1", "ghcr.io/org/x@" + of("stranger").String(), Foreign, "", "", "no mirror is for its registry"},
		{"quay.io/org/tool:v1", "quay.io/org/tool@" + of("tool").String(), Vouched, "quay.io/org/tool:v1", "index", ""},

		// What nothing was observed of: by tag, or by the spec's digest.
		{"alpine:3.20", "", Vouched, "docker.io/library/alpine:3.20", "index", "not observed"},
		{"alpine:3.20@" + of("alpine old").String(), "", Vouched, "docker.io/library/alpine:3.20", "index", "not observed"},
		{"bad:1", "", Withdrawn, "docker.io/library/bad:1", "index", "contains malware"},
		{"alpine:edge", "", Unknown, "", "", "its repository is on the ledger, without this tag"},
		{"ghcr.io/org/x:1", "", Foreign, "", "", ""},
	}
	images := make([]Image, len(cases))
	for i, c := range cases {
		images[i] = Image{Name: c.name, ID: c.id}
	}
	head, findings, err := a.Run(t.Context(), images, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	size, _ := w.Head()
	if head.Size != size.Tree.N || head.Origin != "ledger.example/audit" || head.Root != size.Tree.Hash.String() || head.Stale {
		t.Errorf("head %+v, want %+v", head, size)
	}
	for i, c := range cases {
		f := findings[i]
		if f.Verdict != c.verdict || f.As != c.as || f.Matched != c.matched || !strings.Contains(f.Note, c.note) || f.Observed != (c.id != "" && f.Digest != "") {
			t.Errorf("%s, %s:\n got %+v\nwant %+v", c.name, c.id, f, c)
		}
		if (f.Verdict == Moved) != (f.Newer == of("alpine new") && !strings.Contains(f.Note, "moved on") && c.verdict != Unknown) {
			t.Errorf("%s, %s: newer %s", c.name, c.id, f.Newer)
		}
	}
	if _, findings, err = auditOf(t, w.Handler(), vkey).Run(t.Context(), nil, time.Now()); err != nil || len(findings) != 0 {
		t.Errorf("of nothing: %v, %v", findings, err)
	}
	a.Registries = []string{"_default"}
	if _, findings, err = a.Run(t.Context(), []Image{{Name: "ghcr.io/org/x:1"}}, time.Now()); err != nil || findings[0].Verdict != Unknown {
		t.Errorf("where mirrors are for all registries: %+v, %v", findings, err)
	}
	// A publisher that has fallen silent.
	if head, _, err := a.Run(t.Context(), nil, time.Now().Add(2*time.Hour)); err != nil || !head.Stale {
		t.Errorf("two hours later: %+v, %v", head, err)
	}
}

// Of a node that lies nothing is believed that has a proof.
func TestLyingNodes(t *testing.T) {
	w, vkey := aLedger(t)
	_, foreign, err := ledger.GenerateKey("ledger.example/audit")
	if err != nil {
		t.Fatal(err)
	}
	running := []Image{{Name: "alpine:3.20", ID: "docker.io/library/alpine@" + of("alpine old").String()}}
	for name, c := range map[string]struct {
		key  string
		lie  func(*ledger.LookupJSON)
		says string
	}{
		"honest":            {vkey, func(*ledger.LookupJSON) {}, ""},
		"another key":       {foreign, func(*ledger.LookupJSON) {}, "the head"},
		"another block":     {vkey, func(l *ledger.LookupJSON) { l.Answers[0].Block.Entry = l.Answers[0].Tag.Entry }, "is not in the ledger"},
		"a forged block":    {vkey, func(l *ledger.LookupJSON) { l.Answers[0].Block.Entry = forged(t) }, "is not in the ledger"},
		"a forged tag":      {vkey, func(l *ledger.LookupJSON) { l.Answers[0].Tag.Entry = forged(t) }, "is not in the ledger"},
		"another height":    {vkey, func(l *ledger.LookupJSON) { l.Answers[0].Block.Height++ }, "is not in the ledger"},
		"no proof":          {vkey, func(l *ledger.LookupJSON) { l.Answers[0].Inclusion = nil }, "is not in the ledger"},
		"no base64":         {vkey, func(l *ledger.LookupJSON) { l.Answers[0].Inclusion[0] = "x" }, "inclusion proof"},
		"a block of others": {vkey, func(l *ledger.LookupJSON) { a := &l.Answers[0]; a.Block, a.Inclusion = a.Tag, a.TagInclusion }, "does not name the digest"},
		"a changed head":    {vkey, func(l *ledger.LookupJSON) { l.Checkpoint = strings.Replace(l.Checkpoint, "\n1", "\n2", 1) }, "the head"},
		"too few answers":   {vkey, func(l *ledger.LookupJSON) { l.Answers = nil }, "0 of 1 questions"},
	} {
		node := http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			honest := httptest.NewRecorder()
			w.Handler().ServeHTTP(honest, r)
			var answer ledger.LookupJSON
			if err := json.Unmarshal(honest.Body.Bytes(), &answer); err != nil {
				t.Error(err)
			}
			c.lie(&answer)
			_ = json.NewEncoder(out).Encode(answer)
		})
		_, findings, err := auditOf(t, node, c.key).Run(t.Context(), running, time.Now())
		if c.says == "" {
			if err != nil || findings[0].Verdict != Moved {
				t.Errorf("%s: %+v, %v", name, findings, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q; %+v", name, err, c.says, findings)
		}
	}
}

func forged(t *testing.T) string {
	t.Helper()
	data, err := artifact("docker.io/library/alpine:3.20", "forged").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// More images than one request takes.
func TestManyImages(t *testing.T) {
	w, vkey := aLedger(t)
	requests := 0
	counting := http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) { requests++; w.Handler().ServeHTTP(out, r) })
	var images []Image
	for range 10 {
		for _, name := range []string{"alpine new", "alpine old", "stranger"} {
			for _, tag := range []string{"3.20", "3.19", "edge", "latest", "3"} {
				images = append(images, Image{Name: "alpine:" + tag, ID: "docker.io/library/alpine@" + of(name).String()})
			}
		}
	}
	_, findings, err := auditOf(t, counting, vkey).Run(t.Context(), images, time.Now())
	if err != nil || len(findings) != len(images) {
		t.Fatalf("%d findings, %v", len(findings), err)
	}
	if want := (len(images) + client.LookupBatch - 1) / client.LookupBatch; requests != want {
		t.Errorf("%d requests, want %d", requests, want)
	}
	for i, f := range findings {
		want := map[string]Verdict{of("alpine new").String(): Vouched, of("alpine old").String(): Vouched, of("stranger").String(): Unknown}[f.Digest.String()]
		if f.Digest == of("alpine old") && f.Image == "alpine:3.20" {
			want = Moved
		}
		if f.Verdict != want || f.Image != images[i].Name {
			t.Errorf("%s@%s: %s, want %s", f.Image, f.Digest, f.Verdict, want)
		}
	}
}
