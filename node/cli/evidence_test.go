package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// Acknowledging evidence is recorded in the node's data folder.
func TestEvidenceIsAcknowledged(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "ledger", "evidence")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	// The second was kept while this machine's clock was far ahead.
	for name, text := range map[string]string{
		"Rollback-1.json": `{"kind":"Rollback","time":"2026-01-02T03:04:05Z"}`,
		"Fork-2.json":     `{"kind":"Fork","time":"2096-01-02T03:04:05Z"}`,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"acknowledged: 2 of 2", "acknowledged: 0 of 2"} {
		if status, stdout, stderr := pyrsia(t, "evidence", "acknowledge", "--data", dir); status != 0 || !strings.HasPrefix(stdout, want) {
			t.Errorf("%d %s%s, want %s", status, stdout, stderr, want)
		}
	}
	evidence, err := replica.ReadEvidence(filepath.Join(dir, "ledger"))
	if err != nil || len(evidence) != 2 || !evidence[0].Acknowledged || !evidence[1].Acknowledged {
		t.Errorf("%+v, %v", evidence, err)
	}
	if status, _, stderr := pyrsia(t, "evidence", "acknowledge"); status != 2 || !strings.Contains(stderr, "--data") {
		t.Errorf("without a folder: %d %s", status, stderr)
	}
}
