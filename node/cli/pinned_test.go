package cli

import (
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// Readers of a block are told that no registry gave the tag this digest.
func TestWhatNoRegistrySaysIsSaidSo(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/cli")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	node := httptest.NewServer(w.Handler())
	defer node.Close()
	sum, now := digest.FromString("x"), time.Now().UTC().Truncate(time.Second)
	for image, says := range map[string]string{"pinned:1": "the publisher's word, not the registry's", "moved:1": "and had moved"} {
		e := &ledger.AddArtifact{
			Type: ledger.TypeAddArtifact, Version: 2, Artifact: "docker.io/library/" + image, Digest: sum, MediaType: "m", Size: 1,
			Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: sum, Config: sum, Size: 1}},
			Pieces:    sum, Upstream: "registry.example", Pinned: image == "pinned:1", Time: now,
		}
		if !e.Pinned {
			e.SeenAt = now.Add(-time.Hour)
		}
		if _, err := w.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if status, stdout, stderr := pyrsia(t, "log", "--node", node.URL, image); status != 0 || !strings.Contains(stdout, says) {
			t.Errorf("log: %d %s%s", status, stdout, stderr)
		}
		file := filepath.Join(t.TempDir(), "proof.json")
		if status, _, stderr := pyrsia(t, "proof", "--node", node.URL, image, "--out", file); status != 0 {
			t.Fatal(stderr)
		}
		if status, stdout, stderr := pyrsia(t, "verify", "--key", vkey, "--proof", file, image+"@"+sum.String()); status != 0 || !strings.Contains(stdout, says) {
			t.Errorf("verify: %d %s%s", status, stdout, stderr)
		}
	}
}
