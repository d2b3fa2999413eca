package cosignerkeys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

func TestKeysAreReadAsTheyWereMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cosigner.keys")
	if _, err := Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	made, err := Create(file, "example.com/mirror-1")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	read, err := Read(file)
	if err != nil || len(read) != 2 || len(made) != 2 {
		t.Fatal(read, err)
	}
	for i := range read {
		if read[i].Secret() != made[i].Secret() || read[i].Key().Name() != "example.com/mirror-1" {
			t.Errorf("key %d is read as %s, and was made as %s", i, read[i], made[i])
		}
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(file, "example.com/mirror-1"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the keys were replaced: %v", err)
	}
	if _, err := Create(filepath.Join(t.TempDir(), "keys"), "a b"); err == nil {
		t.Error("a name with a space")
	}
}

func TestKeysThatAreNotRead(t *testing.T) {
	var lines []string
	for _, x := range []struct {
		alg  cosign.Algorithm
		name string
	}{{cosign.MLDSA44, "a"}, {cosign.Ed25519, "a"}, {cosign.Ed25519, "b"}} {
		s, err := cosign.Generate(x.alg, x.name)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, s.Secret()+"\n")
	}
	for _, c := range []struct {
		name, text string
		mode       fs.FileMode
		want       string
	}{
		{"readable by the group", lines[0] + lines[1], 0o660, ""},
		{"readable by everyone", lines[0] + lines[1], 0o644, "mode 0644"},
		{"one key", lines[0], 0o600, "want two keys"},
		{"one algorithm", lines[1] + lines[1], 0o600, "want two keys"},
		{"two names", lines[0] + lines[2], 0o600, "want two keys"},
		{"three keys", lines[0] + lines[1] + lines[2], 0o600, "want two keys"},
		{"cut off", lines[0] + lines[1][:40], 0o600, "line 2"},
		{"empty", "", 0o600, "line 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			signers, err := Read(file)
			if c.want == "" {
				if err != nil || len(signers) != 2 {
					t.Error(signers, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), strings.SplitN(lines[1], "+", 5)[4][4:20]) {
				t.Errorf("%v, %v, want %q", signers, err, c.want)
			}
		})
	}
}
