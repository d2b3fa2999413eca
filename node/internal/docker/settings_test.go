package docker

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
)

// Settings that install leaves as they are, because dockerd does not start with
// them or would not see the mirror.
func TestSettingsThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct{ content, says string }{
		"no mirror's URL": {"{\n  \"registry-mirrors\" : [\n    \"\"\n  ]\n}\n", `registry-mirrors has "", which is no URL of a mirror`},
		"a host alone":    {`{"registry-mirrors":["mirror.example"]}`, `"mirror.example", which is no URL`},
		"a comment":       {"{\n  // mirrors\n  \"registry-mirrors\": []\n}\n", "correct it first"},
		"not a list":      {`{"registry-mirrors":"https://a.example"}`, "registry-mirrors: "},
		"not an object":   {`null`, "no JSON object"},
		"half of UTF-16":  {"\xff\xfe{\x00}", "ends in the middle"},
		"bad UTF-16":      {"\xff\xfe\"\x00\x00\xd8\"\x00", "not valid UTF-16"},
		"bad UTF-8":       {"{\"a\": \"\xff\"}", "not valid UTF-8"},
		"UTF-16 unmarked": {"{\x00}\x00", "correct it first"},
		"with a password": {`{"registry-mirrors":["https://me:secret@mirror.example"]}`, `"...@mirror.example", which is no URL`},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, tt.content)
			want := tree(t, s)
			if err := s.Install(mirror); err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if diff := cmp.Diff(want, tree(t, s)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// utf16 is a text as Windows PowerShell writes one.
func utf16LE(s string) string {
	out := []byte("\xff\xfe")
	for _, unit := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, unit)
	}
	return string(out)
}

// All that is not a mirror stays byte for byte, and so does a mark before it.
func TestSettingsThatAreKept(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"null": {`{"registry-mirrors": null, "hosts": ["unix:///var/run/docker.sock"]}`,
			`{"registry-mirrors": ["` + mirror + `"], "hosts": ["unix:///var/run/docker.sock"]}`},
		"byte order mark": {"\xef\xbb\xbf{\n  \"registry-mirrors\": [\"https://mine.example\"],\n  \"debug\": true\n}\n",
			"\xef\xbb\xbf{\n  \"registry-mirrors\": [\"" + mirror + "\",\"https://mine.example\"],\n  \"debug\": true\n}\n"},
		"UTF-16": {utf16LE("{\r\n  \"labels\": [\"größe=\U0001F40B\"]\r\n}\r\n"),
			utf16LE("{\r\n  \"labels\": [\"größe=\U0001F40B\"],\"registry-mirrors\":[\"" + mirror + "\"]\r\n}\r\n")},
		// dockerd takes the last list, as Go's decoder does.
		"mirrors twice": {`{"registry-mirrors":["https://a.example"],"debug":true,"registry-mirrors":["https://b.example"]}`,
			`{"registry-mirrors":["https://a.example"],"debug":true,"registry-mirrors":["` + mirror + `","https://b.example"]}`},
		"a key in escapes": {`{"registry\u002dmirrors" :[ ]}`, `{"registry\u002dmirrors" :["` + mirror + `"]}`},
		"within another":   {`{"features": {"registry-mirrors": false}}`, `{"features": {"registry-mirrors": false},"registry-mirrors":["` + mirror + `"]}`},
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
			if state, err := s.Status(); err != nil || state.Ours != mirror {
				t.Errorf("installed: %+v, %v", state, err)
			}
			if _, err := s.Uninstall(false); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, s)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

// A password in daemon.json can be read by the same users as before and by no
// others, in daemon.json and in the backup.
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
	if _, err := s.Uninstall(false); err != nil {
		t.Fatal(err)
	}
	check("after uninstall")
}

// A daemon.json that is a link leading nowhere stays that link.
func TestNoFileIsRefused(t *testing.T) {
	for name, lay := range map[string]func(file string) error{
		"a link to": func(file string) error { return os.Symlink("/nowhere/daemon.json", file) },
		"a FIFO":    func(file string) error { return syscall.Mkfifo(file, 0o644) },
	} {
		s := Setup{File: filepath.Join(t.TempDir(), "daemon.json")}
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
