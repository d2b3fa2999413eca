package cli

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// logNode is a node whose ledger has these images, one block each.
func logNode(t *testing.T, images ...*ledger.AddArtifact) (url, key string) {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey("ledger.example/log")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	for _, a := range images {
		if _, err := w.Append(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	node := httptest.NewServer(w.Handler())
	t.Cleanup(node.Close)
	return node.URL, vkey
}

func recorded(name string, d digest.Digest, platforms ...ledger.Platform) *ledger.AddArtifact {
	return &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: name, Digest: d, MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
		Platforms: platforms, Pieces: digest.FromString("pieces of " + name), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
	}
}

func platform(name, content string) ledger.Platform {
	return ledger.Platform{Platform: name, Digest: digest.FromString(content), Config: digest.FromString("config of " + content), Size: 1}
}

// Two platforms with an attestation each, as 'docker buildx build' makes them.
func attestedAlpine() *ledger.AddArtifact {
	return recorded("docker.io/library/alpine:3.20", digest.FromString("alpine 3.20"),
		platform("linux/amd64", "amd64"), platform("linux/arm64/v8", "arm64"),
		platform(ledger.UnknownPlatform, "attestation of amd64"), platform(ledger.UnknownPlatform, "attestation of arm64"))
}

const begins = "0123456789ab" // two digests of the ledger do

func startLogNode(t *testing.T) (url, key string) {
	return logNode(t, attestedAlpine(),
		recorded("docker.io/library/alpine:3.19", digest.FromString("alpine 3.19"), platform("linux/amd64", "old")),
		recorded("quay.io/org/image:1", digest.FromString("quay"), platform("linux/amd64", "quay amd64")),
		recorded("localhost:5000/own/image:1", digest.FromString("own"), platform("linux/amd64", "own amd64")),
		recorded("docker.io/library/deadbeefcafe:latest", digest.FromString("hex"), platform("linux/amd64", "hex amd64")),
		recorded("docker.io/library/a:1", digest.Digest("sha256:"+begins+strings.Repeat("c", 52)), platform("linux/amd64", "a")),
		recorded("docker.io/library/b:1", digest.Digest("sha256:"+begins+strings.Repeat("d", 52)), platform("linux/amd64", "b")))
}

func TestLogFindsWhatPeoplePaste(t *testing.T) {
	url, _ := startLogNode(t)
	index, config, manifest := digest.FromString("alpine 3.20"), digest.FromString("config of arm64"), digest.FromString("arm64")
	for _, what := range []string{
		"alpine:3.20", "docker.io/library/alpine:3.20", "index.docker.io/library/alpine:3.20",
		index.String(), index.Encoded(), index.Encoded()[:12], index.Encoded()[:13], "sha256:" + index.Encoded()[:12], strings.ToUpper(index.Encoded()),
		config.String(), config.Encoded(), config.Encoded()[:12], config.Encoded()[:13],
		manifest.String(), manifest.Encoded()[:12],
		"alpine@" + index.String(), "alpine:3.20@" + index.String(), "alpine@" + manifest.String(), "alpine@sha256:" + index.Encoded()[:20],
		"docker.io/library/alpine@" + index.String(), "docker-pullable://alpine@" + index.String(),
		"127.0.0.1:5001/library/alpine:3.20", "127.0.0.1:5001/alpine:3.20", "localhost:5001/library/alpine:3.20", "[::1]:5001/library/alpine:3.20",
		"127.0.0.1:5001/docker.io/library/alpine:3.20", "127.0.0.1:5001/library/alpine@" + index.String(),
		" alpine:3.20\n", `"alpine:3.20"`,
	} {
		status, stdout, stderr := pyrsia(t, "log", "--node", url, what)
		if status != 0 || !strings.Contains(stdout, index.String()) || strings.Count(stdout, "\n") != 2 {
			t.Errorf("%q: %d %s%s", what, status, stdout, stderr)
		}
		if fields := strings.Fields(strings.SplitAfter(stdout+"\n", "\n")[1]); status == 0 && fields[len(fields)-1] != "2" {
			t.Errorf("%q: platforms: %v, want 2", what, fields)
		}
	}
	for what, want := range map[string]string{
		"127.0.0.1:5001/quay.io/org/image:1":   "quay.io/org/image:1",
		"localhost:5001/quay.io/org/image:1":   "quay.io/org/image:1",
		"localhost:5000/own/image:1":           "localhost:5000/own/image:1",
		"deadbeefcafe":                         "docker.io/library/deadbeefcafe:latest",
		begins + "d":                           "docker.io/library/b:1",
		"sha256:" + begins + "c":               "docker.io/library/a:1",
		begins + strings.Repeat("c", 51) + "c": "docker.io/library/a:1",
	} {
		if status, stdout, stderr := pyrsia(t, "log", "--node", url, what); status != 0 || !strings.Contains(stdout, " "+want+" ") {
			t.Errorf("%q: %d %s%s", what, status, stdout, stderr)
		}
	}
}

// What cannot be one image is never said not to be on the ledger.
func TestLogSaysWhatToPaste(t *testing.T) {
	url, _ := startLogNode(t)
	index, old := digest.FromString("alpine 3.20"), digest.FromString("alpine 3.19")
	for what, want := range map[string]string{
		"alpine   3.20   5b3e6f1a2b3c   2 weeks ago   7.8MB": "more than one word",
		begins:                            "give more digits",
		"alpine@sha256:" + begins:         "give more digits",
		index.Encoded()[:11]:              "at least 12 digits",
		"sha256:" + index.Encoded()[:11]:  "at least 12 digits",
		"alpine:3.19@" + index.String():   "docker.io/library/alpine:3.20 (block 0)",
		"alpine:3.20@" + old.String():     "do not belong together",
		"busybox@" + index.String():       "do not belong together",
		"quay.io/x/y:1@" + index.String(): "do not belong together",
		"containerd://" + index.Encoded(): "container's ID",
		"<none>@" + index.String():        "docker shows",
	} {
		for _, command := range []string{"log", "proof"} {
			status, stdout, stderr := pyrsia(t, command, "--node", url, what)
			if status == 0 || !strings.Contains(stderr, want) || strings.Contains(stderr, "is not on the ledger") {
				t.Errorf("%s %q: %d %s%s, want %q", command, what, status, stdout, stderr, want)
			}
		}
	}
	for _, what := range []string{"alpine:9", "127.0.0.1:5001/library/alpine:9", digest.FromString("nowhere").String(), digest.FromString("nowhere").Encoded()[:12],
		"alpine:3.20@" + digest.FromString("nowhere").String()} {
		if status, _, stderr := pyrsia(t, "log", "--node", url, what); status != 1 || !strings.Contains(stderr, what+" is not on the ledger") {
			t.Errorf("%q: %d %s", what, status, stderr)
		}
	}
}

// A name and a digest are found together behind pages of other names.
func TestLogReadsAllPagesOfADigest(t *testing.T) {
	shared := digest.FromString("shared")
	images := []*ledger.AddArtifact{recorded("docker.io/library/first:1", shared, platform("linux/amd64", "x"))}
	for i := range ledger.MaxArtifacts + 5 {
		images = append(images, recorded("docker.io/library/other:"+strings.Repeat("x", i+1), shared, platform("linux/amd64", "x")))
	}
	url, _ := logNode(t, images...)
	status, stdout, stderr := pyrsia(t, "log", "--node", url, "first@"+shared.String())
	if status != 0 || !strings.Contains(stdout, "docker.io/library/first:1") || strings.Contains(stdout, "other") {
		t.Errorf("%d %s%s", status, stdout, stderr)
	}
}

func TestVerifyTakesWhatPeoplePaste(t *testing.T) {
	url, key := startLogNode(t)
	index, file := digest.FromString("alpine 3.20"), t.TempDir()+"/proof.json"
	if status, _, stderr := pyrsia(t, "proof", "--node", url, "--out", file, "127.0.0.1:5001/library/alpine:3.20"); status != 0 {
		t.Fatal(stderr)
	}
	for what, want := range map[string]int{
		"alpine@" + index.String():                             0,
		"alpine:3.20@" + index.String():                        0,
		"127.0.0.1:5001/library/alpine:3.20@" + index.String(): 0,
		"localhost:5001/library/alpine@" + index.String():      0,
		index.String():  0,
		index.Encoded(): 0,
		"alpine@" + digest.FromString("config of amd64").String(): 0,
		"alpine:3.19@" + index.String():                           1,
		"quay.io/library/alpine@" + index.String():                1,
		digest.FromString("alpine 3.19").String():                 1,
		index.Encoded()[:12]:                                      2, // no proof is for so little
		"alpine@sha256:" + index.Encoded()[:12]:                   2,
		"alpine:3.20":                                             2,
		"alpine 3.20":                                             2,
	} {
		status, stdout, stderr := pyrsia(t, "verify", "--key", key, "--proof", file, what)
		if status != want {
			t.Errorf("%q: status %d, want %d: %s%s", what, status, want, stdout, stderr)
		}
		if status == 0 && !strings.Contains(stdout, "docker.io/library/alpine:3.20@") {
			t.Errorf("%q: it does not say which name was proven: %s", what, stdout)
		}
	}
}
