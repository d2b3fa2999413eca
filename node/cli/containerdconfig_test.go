package cli

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/client"
)

// onPath puts a program in front of all others, or takes all away.
func onPath(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// For each registry status says whether containerd reads its file, and through
// which setting.
func TestStatusSaysWhatContainerdReads(t *testing.T) {
	onPath(t, "containerd", "")
	certs := t.TempDir()
	config := filepath.Join(t.TempDir(), "config.toml")
	const table = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = "
	set := func(content string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(strings.ReplaceAll(content, "CERTS", certs)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(command string, more ...string) (status int, stdout, stderr string) {
		t.Helper()
		args := []string{"containerd", command, "--certs-d", certs, "--config", config, "--registry", "reg.test:5000"}
		return pyrsia(t, append(args, more...)...)
	}
	check := func(what string, want int, says []string, more ...string) {
		t.Helper()
		status, stdout, stderr := run("status", more...)
		if status != want {
			t.Errorf("%s: status %d, want %d: %s%s", what, status, want, stdout, stderr)
		}
		for _, text := range says {
			if !strings.Contains(stdout+stderr, strings.ReplaceAll(text, "CERTS", certs)) {
				t.Errorf("%s: want %q in %s%s", what, text, stdout, stderr)
			}
		}
	}
	set("version = 2\n" + table + "\"CERTS\"\n")
	check("nothing installed", 0, []string{"reads CERTS", "reg.test:5000"})
	if status, _, stderr := run("install", "--no-port-check"); status != 0 || stderr != "" {
		t.Fatal(stderr)
	}
	check("read", 0, []string{"READ   ASKED\n", "Strict", "   yes    not known\n", "reads CERTS, by " + config})
	check("read by 2.4", 0, []string{"containerd 2.4 reads CERTS, by " + config + " (CRI pulls by its transfer service)"}, "--containerd-version", "2.4.2")
	check("read by 2.0", 0, []string{"CRI pulls by its local pull"}, "--containerd-version", "containerd://2.0.1")
	onPath(t, "containerd", "echo containerd github.com/containerd/containerd/v2 v2.4.2 0123456")
	check("by the program", 0, []string{"containerd 2.4 reads"})

	set("version = 2\n" + table + "\"CERTS:/etc/docker/certs.d\"\n")
	check("a list", 1, []string{"   no     not known\n", "takes for the name of one folder", "have\n\n  " + strings.ReplaceAll(table, "\n  ", "\n    ") + "\"CERTS\"", "restart containerd"})
	if status, _, stderr := run("install", "--no-port-check"); status != 0 || !strings.Contains(stderr, "Warning: containerd 2.4 does not read") {
		t.Errorf("install says nothing of it: %d %s", status, stderr)
	}
	set("version = 2\n" + table + "\"CERTS\"\n  [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n    endpoint = [\"https://user:hunter2@x.test\"]\n")
	check("mirrors", 1, []string{"does not load", "first take registry.mirrors out of " + config})
	if _, stdout, stderr := run("status"); strings.Contains(stdout+stderr, "hunter2") {
		t.Error("it prints what is in the file")
	}
	set("version = 2\n" + table + "certs\n")
	check("no TOML", 1, []string{"   not known   not known\n", config + " is not readable here: it is no TOML of the right form, line 3"})
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	check("none", 1, []string{"there is no " + config, "write " + config})

	// Another folder, or what is in this one, keeps it from being read.
	set("version = 2\n" + table + "\"CERTS\"\n")
	ours := hostsTOML(t, certs, "reg.test:5000")
	for folder, tc := range map[string]struct {
		content, say string
	}{
		"reg.test_5000_": {"server = \"https://own.test\"\n", "containerd looks for reg.test:5000 in CERTS/reg.test_5000_, which wins over CERTS/reg.test:5000"},
		"reg.test:5000":  {ours + "  dial_timeout = \"soon\"\n", "drops CERTS/reg.test"},
	} {
		dir := filepath.Join(certs, folder)
		before, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(tc.content), 0o644))
		if folder == "reg.test:5000" { // then it is alone
			err = errors.Join(err, os.Rename(filepath.Join(certs, "reg.test_5000_"), filepath.Join(certs, "moved")))
		}
		if err != nil {
			t.Fatal(err)
		}
		check(folder, 1, []string{tc.say, "   no     not known\n"})
		err = os.WriteFile(filepath.Join(dir, "hosts.toml"), before, 0o644)
		if folder == "reg.test:5000" {
			err = errors.Join(err, os.Rename(filepath.Join(certs, "moved"), filepath.Join(certs, "reg.test_5000_")))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	check("as before", 0, []string{"   yes    not known\n"})
}

// For each registry status says when containerd last asked the mirror for it.
func TestStatusSaysWhenContainerdAsked(t *testing.T) {
	onPath(t, "containerd", "")
	said := client.Asked{Since: time.Now().Add(-time.Hour), Registries: map[string]time.Time{"docker.io": time.Now().Add(-2 * time.Minute)}}
	questions := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == client.AskedPath {
			questions++
			_ = json.NewEncoder(w).Encode(said)
		}
	}))
	defer server.Close()
	certs := t.TempDir()
	run := func(command string, more ...string) string {
		t.Helper()
		args := []string{"containerd", command, "--certs-d", certs, "--config", filepath.Join(certs, "none"), "--registry", "docker.io", "--registry", "reg.test:5000"}
		_, stdout, _ := pyrsia(t, append(args, more...)...)
		return stdout
	}
	for _, line := range strings.Split(run("status"), "\n")[1:] {
		if line != "" && !strings.HasSuffix(line, " -") {
			t.Errorf("not installed: %q", line)
		}
	}
	run("install", "--no-port-check", "--mirror", server.URL)
	got := run("status")
	for line := range strings.Lines(got) {
		want := "not in [0-9hms]+\n$"
		switch {
		case strings.HasPrefix(line, "REGISTRY"):
			want = "ASKED\n$"
		case strings.Contains(line, "docker.io"):
			want = "  [0-9ms]+ ago\n$"
		}
		if !regexp.MustCompile(want).MatchString(line) {
			t.Errorf("%q, want %q", line, want)
		}
	}
	if questions != 1 {
		t.Errorf("the mirror was asked %d times", questions)
	}
	server.Close()
	if got := run("status"); !strings.Contains(got, "not known\n") || strings.Contains(got, "ago") {
		t.Errorf("without the mirror: %s", got)
	}
}
