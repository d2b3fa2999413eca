package cli

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
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

// A file of evidence is judged without a node, by what the keys in it signed.
func TestEvidenceIsVerified(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/cli")
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := ledger.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ledger.GenerateKey("ledger.example/cli")
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := func(root string) string {
		signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("ledger.example/cli\n2\n%s\n", tlog.Hash(sha256.Sum256([]byte(root))))}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	dir := t.TempDir()
	write := func(name string, e ledger.Evidence) string {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	fork := write("fork.json", ledger.Evidence{Verified: checkpoint("one"), Received: checkpoint("two"), Keys: []string{vkey}})
	same := write("same.json", ledger.Evidence{Verified: checkpoint("one"), Received: checkpoint("one"), Keys: []string{vkey}})
	policies := filepath.Join(dir, "policy")
	if err := os.WriteFile(policies, []byte("log "+vkey+"\nquorum none\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		args           []string
		status         int
		stdout, stderr string
	}{
		{"a fork", []string{fork}, 0, "CONVICTED: " + vkey + "\n  Ed25519; compare the whole key with the one that you trust\nIt signed two ledgers of 2 blocks, with the roots ", ""},
		{"by a key that is given", []string{fork, "--key", vkey}, 0, "CONVICTED: " + vkey + "\n  Ed25519; trusted as the key of --key\n", ""},
		{"by a policy", []string{fork, "--policy", policies}, 0, "CONVICTED: " + vkey + "\n  Ed25519; trusted as \"log\" of the policy\n", ""},
		{"by another key", []string{fork, "--key", other}, 1, "NOT YOURS: " + vkey, "convicts nobody whose key you gave"},
		{"no fork", []string{same}, 1, "NOT CONVICTED: nothing in it contradicts anything else\n", "the evidence convicts nobody"},
		{"for programs", []string{fork, "-o", "json"}, 0, `{"convicted":[{"key":"` + vkey + `","algorithm":"Ed25519"}],"contradiction":"two ledgers of 2 blocks`, ""},
		{"no file", []string{filepath.Join(dir, "missing")}, 1, "", "reading the evidence"},
		{"a broken key", []string{fork, "--key", "x"}, 2, "", "verifier key"},
		{"a broken policy", []string{fork, "--policy", fork}, 1, "", "policy, line 1"},
		{"no argument", nil, 2, "", "pyrsia evidence verify --help"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, stdout, stderr := pyrsia(t, append([]string{"evidence", "verify"}, c.args...)...)
			if status != c.status || !strings.HasPrefix(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("%d\n%s%s, want %d\n%s%s", status, stdout, stderr, c.status, c.stdout, c.stderr)
			}
		})
	}
}
