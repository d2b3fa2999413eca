package docker

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
)

// Settings that install leaves as they are, because dockerd does not start with
// them or would not see the mirror.
func TestSettingsThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct{ content, says string }{
		"mirrors twice":   {`{"registry-mirrors":["https://a.example"],"debug":true,"registry-mirrors":["https://b.example"]}`, "registry-mirrors is there twice"},
		"no mirror's URL": {"{\n  \"registry-mirrors\" : [\n    \"\"\n  ]\n}\n", `registry-mirrors has "", which is no URL of a mirror`},
		"a host alone":    {`{"registry-mirrors":["mirror.example"]}`, `"mirror.example", which is no URL`},
		"a comment":       {"{\n  // mirrors\n  \"registry-mirrors\": []\n}\n", "correct it first"},
		"not a list":      {`{"registry-mirrors":"https://a.example"}`, "registry-mirrors: "},
		"not an object":   {`null`, "no JSON object"},
		"UTF-16":          {"\xff\xfe{\x00}\x00", "correct it first"},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, tt.content)
			want := tree(t, s)
			if err := s.Install(mirror); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if diff := cmp.Diff(want, tree(t, s)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// All that is not a mirror stays byte for byte, and so does a mark before it.
func TestSettingsThatAreKept(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"null": {`{"registry-mirrors": null, "hosts": ["unix:///var/run/docker.sock"]}`,
			`{"registry-mirrors": ["` + mirror + `"], "hosts": ["unix:///var/run/docker.sock"]}`},
		"byte order mark": {"\xef\xbb\xbf{\n  \"registry-mirrors\": [\"https://mine.example\"],\n  \"debug\": true\n}\n",
			"\xef\xbb\xbf{\n  \"registry-mirrors\": [\"" + mirror + "\",\"https://mine.example\"],\n  \"debug\": true\n}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, tt.content)
			before := tree(t, s)
			if err := s.Install(mirror); err != nil {
				t.Fatal(err)
			}
			got, _, err := read(s.File)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if mirrors, ours, err := s.Installed(); err != nil || ours != mirror {
				t.Errorf("installed: %v, %q, %v", mirrors, ours, err)
			}
			if err := s.Uninstall(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, s)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

// A password in daemon.json can be read by those who could read it before, and
// by nobody else: not in daemon.json, and not in the backup.
func TestPasswordStaysSecret(t *testing.T) {
	s := lay(t, `{"http-proxy": "http://user:secret@proxy:3128", "log-opts": {"splunk-token": "abc"}}`)
	owner := os.Geteuid()
	if owner == 0 {
		owner = 1234
		if err := os.Chown(s.File, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		err := filepath.WalkDir(filepath.Dir(s.File), func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Stat(path)
			if err != nil || info.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			if strings.Contains(string(content), "secret") && info.Mode().Perm() != 0o600 {
				t.Errorf("%s %s is %v", when, path, info.Mode())
			}
			if path == s.File && int(info.Sys().(*syscall.Stat_t).Uid) != owner {
				t.Errorf("%s daemon.json belongs to %d, want %d", when, info.Sys().(*syscall.Stat_t).Uid, owner)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Install(mirror); err != nil {
		t.Fatal(err)
	}
	check("after install")
	// Changed since, so that uninstall writes the file and does not move the old one back.
	current, _, err := read(s.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.File, append(current, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Uninstall(); err != nil {
		t.Fatal(err)
	}
	check("after uninstall")
}

// Who keeps daemon.json elsewhere, by a link that leads nowhere now, keeps the link.
func TestNoFileIsRefused(t *testing.T) {
	for name, lay := range map[string]func(file string) error{
		"a link to": func(file string) error { return os.Symlink("/nowhere/daemon.json", file) },
		"a FIFO":    func(file string) error { return syscall.Mkfifo(file, 0o644) },
	} {
		s := Setup{filepath.Join(t.TempDir(), "daemon.json")}
		if err := lay(s.File); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(s.File)
		if err := s.Install(mirror); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
		if after, err := os.Lstat(s.File); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: it was changed: %v", name, err)
		}
	}
}

// fakeDockerd has this program be a dockerd that only waits.
const fakeDockerd = "PYRSIA_TEST_DOCKERD"

func beDockerd() {
	fmt.Println("up")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// A dockerd that was started with a mirror of its own would not start again.
func TestDockerdWithAMirrorOfItsOwn(t *testing.T) {
	for name, tt := range map[string]struct {
		args    []string // of dockerd; FILE is daemon.json
		refused bool
	}{
		"its own mirror":   {[]string{"--config-file=FILE", "--registry-mirror=https://mirror.example"}, true},
		"in two words":     {[]string{"--config-file", "FILE", "--registry-mirror", "https://mirror.example"}, true},
		"no mirror":        {[]string{"--config-file=FILE", "--debug"}, false},
		"another settings": {[]string{"--registry-mirror=https://mirror.example", "--config-file=/nowhere/daemon.json"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, "-")
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Args = []string{"/usr/bin/dockerd"}
			for _, a := range tt.args {
				cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "FILE", s.File))
			}
			cmd.Env = append(os.Environ(), fakeDockerd+"=1")
			stdin, err1 := cmd.StdinPipe()
			stdout, err2 := cmd.StdoutPipe()
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
			if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			err = s.Install(mirror)
			if tt.refused && (err == nil || !strings.Contains(err.Error(), "was started with --registry-mirror")) || !tt.refused && err != nil {
				t.Errorf("install: %v", err)
			}
			if _, exists, _ := read(s.File); exists == tt.refused {
				t.Errorf("daemon.json is there: %t", exists)
			}
		})
	}
}

// A power cut after install or uninstall has returned undoes nothing of it.
func TestRenamesAreSynced(t *testing.T) {
	killpoint.Need(t)
	s := lay(t, before["own mirror"])
	for _, what := range []string{"install", "uninstall"} {
		if left := killpoint.Unsynced(t, what, s.File); len(left) > 0 {
			t.Errorf("%s: not synced: %v", what, left)
		}
	}
}
