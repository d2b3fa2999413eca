package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // Tessera's
	os.Exit(m.Run())
}

// pyrsia runs the command line.
func pyrsia(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Main(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestFromAKeyToAVerifiedProof(t *testing.T) {
	dir := t.TempDir()
	keyFile, proofFile := filepath.Join(dir, "signing.key"), filepath.Join(dir, "proof.json")
	status, vkey, stderr := pyrsia(t, "keygen", "--origin", "ledger.example/cli", "--out", keyFile)
	if status != 0 {
		t.Fatal(stderr)
	}
	vkey = strings.TrimSpace(vkey)
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the signing key's file: %v, %v", info.Mode(), err)
	}
	if status, _, _ := pyrsia(t, "keygen", "--origin", "ledger.example/cli", "--out", keyFile); status != 1 {
		t.Errorf("keygen over a key that is there: status %d, want 1", status)
	}
	skey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), filepath.Join(dir, "ledger"), string(skey), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	image, config := digest.FromString("index"), digest.FromString("config")
	if _, err := w.Append(t.Context(), &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/library/alpine:3.20",
		Digest: image, MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
		Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: digest.FromString("manifest"), Config: config, Size: 1}},
		Pieces:    digest.FromString("pieces"), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
	}); err != nil {
		t.Fatal(err)
	}
	node := httptest.NewServer(w.Handler())
	defer node.Close()

	for _, what := range []string{"alpine:3.20", image.String(), config.String()} {
		if status, stdout, stderr := pyrsia(t, "log", "--node", node.URL, what); status != 0 || !strings.Contains(stdout, image.String()) {
			t.Errorf("log %s: %d %s%s", what, status, stdout, stderr)
		}
	}
	if status, _, stderr := pyrsia(t, "proof", "--node", node.URL, "alpine:3.20", "--out", proofFile); status != 0 {
		t.Fatal(stderr)
	}
	_, otherKey, err := ledger.GenerateKey("ledger.example/cli")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(key, name string) (int, string) {
		status, _, stderr := pyrsia(t, "verify", "--key", key, "--proof", proofFile, name)
		return status, stderr
	}
	for name, want := range map[string]int{
		"alpine:3.20@" + image.String():                               0,
		"alpine:3.20@" + config.String():                              0,
		"alpine:3.21@" + image.String():                               1,
		"alpine:3.20@" + digest.FromString("something else").String(): 1,
		"alpine:3.20": 2,
	} {
		if status, stderr := verify(vkey, name); status != want {
			t.Errorf("verify %s: status %d, want %d: %s", name, status, want, stderr)
		}
	}
	status, stdout, stderr := pyrsia(t, "verify", "--key", vkey, "--proof", proofFile, "-o", "json", "alpine:3.20@"+image.String())
	if status != 0 || !strings.Contains(stdout, `"block":0`) {
		t.Errorf("verify -o json: %d %s%s", status, stdout, stderr)
	}
	if status, stdout, stderr := pyrsia(t, "log", "--node", node.URL, "registry-1.docker.io/library/alpine:3.20"); status != 0 || !strings.Contains(stdout, image.String()) {
		t.Errorf("log by the registry's other name: %d %s%s", status, stdout, stderr)
	}
	if status, stderr := verify(vkey, "index.docker.io/library/alpine:3.20@"+image.String()); status != 0 {
		t.Errorf("verify by the registry's other name: %d %s", status, stderr)
	}
	verifyByPlugin(t, node.URL, vkey, otherKey, image)
	if status, stderr := verify(otherKey, "alpine:3.20@"+image.String()); status != 1 {
		t.Errorf("verify with another key: status %d: %s", status, stderr)
	}
	if _, err := w.RevokeDigest(t.Context(), "docker.io/library/alpine", image, "it has a backdoor", time.Now()); err != nil {
		t.Fatal(err)
	}
	if status, stdout, stderr := pyrsia(t, "log", "--node", node.URL, image.String()); status != 0 || !strings.Contains(stdout, "withdrawn by block") || !strings.Contains(stdout, "it has a backdoor") {
		t.Errorf("log of what is withdrawn: %d %s%s", status, stdout, stderr)
	}
	if status, _, stderr := pyrsia(t, "proof", "--node", node.URL, "alpine:3.20", "--out", proofFile); status != 0 || !strings.Contains(stderr, "it has a backdoor") {
		t.Errorf("proof of what is withdrawn: %d %s", status, stderr)
	}
	if status, stderr := verify(vkey, "alpine:3.20@"+image.String()); status != 1 || !strings.Contains(stderr, "it has a backdoor") {
		t.Errorf("verify what is withdrawn: %d %s", status, stderr)
	}
}

// What an administrator does after a disk was damaged, and after one was lost.
func TestFsckAndRestore(t *testing.T) {
	dir := t.TempDir()
	keyFile, data := filepath.Join(dir, "signing.key"), filepath.Join(dir, "data")
	if status, _, stderr := pyrsia(t, "keygen", "--origin", "ledger.example/cli", "--out", keyFile); status != 0 {
		t.Fatal(stderr)
	}
	skey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), filepath.Join(data, "ledger"), string(skey), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(data, "store", "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"good", "bad"} {
		if err := os.WriteFile(filepath.Join(blobs, digest.FromString(content).Encoded()), []byte("good"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(data, "ledger", ".state", "treeState")
	if err := os.WriteFile(state, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	fsck := func(args ...string) (int, string) {
		status, stdout, stderr := pyrsia(t, append([]string{"fsck", "--data", data, "--signing-key", keyFile}, args...)...)
		return status, stdout + stderr
	}
	bad := digest.FromString("bad").Encoded()
	if status, out := fsck(); status != 1 || !strings.Contains(out, "ledger/.state/treeState") || !strings.Contains(out, bad) || !strings.Contains(out, "--repair") {
		t.Errorf("a damaged disk: %d %s", status, out)
	}
	if status, out := fsck("--repair"); status != 0 {
		t.Errorf("its repair: %d %s", status, out)
	}
	if status, out := fsck("-o", "json"); status != 0 || !strings.Contains(out, `"problems":[]`) {
		t.Errorf("after the repair: %d %s", status, out)
	}

	w, err = replica.OpenWriter(t.Context(), filepath.Join(data, "ledger"), string(skey), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	node := httptest.NewServer(w.Handler())
	defer node.Close()
	if status, stdout, stderr := pyrsia(t, "evidence", "--node", node.URL); status != 0 || !strings.Contains(stdout, "none") {
		t.Errorf("evidence: %d %s%s", status, stdout, stderr)
	}
	status, stdout, stderr := pyrsia(t, "restore", "--data", filepath.Join(dir, "new"), "--signing-key", keyFile, "--from", node.URL)
	if status != 0 || !strings.Contains(stdout, "restored: 0 blocks") {
		t.Errorf("restore: %d %s%s", status, stdout, stderr)
	}
}

func TestWrongUse(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want int
	}{
		"no such flag":     {[]string{"node", "--nonsense"}, 2},
		"too few":          {[]string{"proof"}, 2},
		"too many":         {[]string{"log", "alpine", "busybox"}, 2},
		"of no image":      {[]string{"log", "--since", "1h", "alpine"}, 2},
		"unknown role":     {[]string{"node", "--role", "Boss", "--data", t.TempDir()}, 1},
		"malformed key":    {[]string{"node", "--role", "Mirror", "--data", t.TempDir(), "--ledger-key", "nonsense"}, 1},
		"mirror that asks": {[]string{"node", "--role", "Mirror", "--data", t.TempDir(), "--upstream", "docker.io=https://registry.example"}, 1},
		"output":           {[]string{"log", "-o", "xml", "alpine"}, 2},
		"fsck of nothing":  {[]string{"fsck", "--data", "/nonexistent", "--key", "x+1+y"}, 1},
		"restore from":     {[]string{"restore", "--data", t.TempDir()}, 2},
		"size":             {[]string{"node", "--cache-size", "many"}, 2},
	} {
		status, _, stderr := pyrsia(t, test.args...)
		if status != test.want || stderr == "" {
			t.Errorf("%s: status %d, want %d: %q", name, status, test.want, stderr)
		}
	}
}

func TestContainerdStatusTellsWhetherContainerdKnows(t *testing.T) {
	dir := t.TempDir()
	certs, config := filepath.Join(dir, "certs.d"), filepath.Join(dir, "config.toml")
	status := func() (int, string) {
		code, stdout, stderr := pyrsia(t, "containerd", "status", "--certs-d", certs, "--config", config)
		return code, stdout + stderr
	}
	if code, out := status(); code != 0 || strings.Contains(out, "config_path") {
		t.Errorf("nothing installed: %d %s", code, out)
	}
	set := func(path string) {
		t.Helper()
		content := fmt.Sprintf("version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = %q\n", path)
		if err := os.WriteFile(config, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set("/elsewhere")
	if code, _, stderr := pyrsia(t, "containerd", "install", "--no-port-check", "--certs-d", certs, "--config", config); code != 0 || !strings.Contains(stderr, "Warning: containerd does not read "+certs) {
		t.Errorf("installed where containerd does not look: %d %s", code, stderr)
	}
	if code, out := status(); code != 1 || !strings.Contains(out, "Strict") || !strings.Contains(out, `config_path = "`+certs) {
		t.Errorf("set up for another folder: %d %s", code, out)
	}
	set(certs)
	if code, out := status(); code != 0 || !strings.Contains(out, "containerd reads "+certs) {
		t.Errorf("set up: %d %s", code, out)
	}
}

func TestMirrorMustBeAURL(t *testing.T) {
	dir := t.TempDir()
	for _, mirror := range []string{"", "127.0.0.1:5001", "ftp://127.0.0.1", "http://", "http://127.0.0.1:5001/v2", "http://a@127.0.0.1", "http://127.0.0.1\"]\n"} {
		for _, install := range [][]string{{"containerd", "install", "--certs-d", filepath.Join(dir, "certs.d")}, {"docker", "install", "--config-file", filepath.Join(dir, "daemon.json")}} {
			if code, _, stderr := pyrsia(t, append(install, "--mirror", mirror)...); code != 2 || !strings.Contains(stderr, "such as http://127.0.0.1:5001") {
				t.Errorf("%s with mirror %q: %d %s", install[0], mirror, code, stderr)
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
