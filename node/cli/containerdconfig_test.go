package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

// Of each registry it is told whether containerd reads its file, and by what.
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
	check("read", 0, []string{"READ\n", "Strict", "   yes\n", "reads CERTS, by " + config})
	check("read by 2.4", 0, []string{"containerd 2.4 reads CERTS, by " + config + " (CRI pulls by its transfer service)"}, "--containerd-version", "2.4.2")
	check("read by 2.0", 0, []string{"CRI pulls by its local pull"}, "--containerd-version", "containerd://2.0.1")
	onPath(t, "containerd", "echo containerd github.com/containerd/containerd/v2 v2.4.2 0123456")
	check("by the program", 0, []string{"containerd 2.4 reads"})

	set("version = 2\n" + table + "\"CERTS:/etc/docker/certs.d\"\n")
	check("a list", 1, []string{"   no\n", "takes for the name of one folder", "have\n\n  " + strings.ReplaceAll(table, "\n  ", "\n    ") + "\"CERTS\"", "restart containerd"})
	if status, _, stderr := run("install", "--no-port-check"); status != 0 || !strings.Contains(stderr, "Warning: containerd 2.4 does not read") {
		t.Errorf("install says nothing of it: %d %s", status, stderr)
	}
	set("version = 2\n" + table + "\"CERTS\"\n  [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n    endpoint = [\"https://user:hunter2@x.test\"]\n")
	check("mirrors", 1, []string{"does not load", "first take registry.mirrors out of " + config})
	if _, stdout, stderr := run("status"); strings.Contains(stdout+stderr, "hunter2") {
		t.Error("it prints what is in the file")
	}
	set("version = 2\n" + table + "certs\n")
	check("no TOML", 1, []string{"   not known\n", config + " is not readable here: it is no TOML of the right form, line 3"})
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
		check(folder, 1, []string{tc.say, "   no\n"})
		err = os.WriteFile(filepath.Join(dir, "hosts.toml"), before, 0o644)
		if folder == "reg.test:5000" {
			err = errors.Join(err, os.Rename(filepath.Join(certs, "moved"), filepath.Join(certs, "reg.test_5000_")))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	check("as before", 0, []string{"   yes\n"})
}
