package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
)

const mirror = "http://127.0.0.1:5001"

func TestMain(m *testing.M) {
	if os.Getenv(fakeDockerd) != "" {
		beDockerd()
	}
	killpoint.Main(m, func(args []string) error {
		if args[0] == "install" {
			return Setup{args[1]}.Install(mirror)
		}
		return Setup{args[1]}.Uninstall()
	})
}

// before are what users have; "-" is no file.
var before = map[string]string{
	"no file":       "-",
	"empty":         "",
	"other setting": "{\n  \"log-driver\":   \"local\" }\n",
	"own mirror":    `{"registry-mirrors":["https://mine.example"],"debug":true}`,
}

func lay(t *testing.T, content string) Setup {
	t.Helper()
	s := Setup{filepath.Join(t.TempDir(), "daemon.json")}
	if content != "-" {
		if err := os.WriteFile(s.File, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// tree describes what is in the folder, with the files' identity.
func tree(t *testing.T, s Setup) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := os.ReadDir(filepath.Dir(s.File))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		content, _ := os.ReadFile(filepath.Join(filepath.Dir(s.File), f.Name()))
		out[f.Name()] = fmt.Sprint(info.Mode(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino, " ", string(content))
	}
	return out
}

func TestUninstallRestoresExactly(t *testing.T) {
	for name, content := range before {
		t.Run(name, func(t *testing.T) {
			s := lay(t, content)
			want := tree(t, s)
			for _, m := range []string{mirror, mirror, "http://127.0.0.1:6001"} {
				if err := s.Install(m); err != nil {
					t.Fatal(err)
				}
				mirrors, ours, err := s.Installed()
				if err != nil || ours != m || mirrors[0] != m {
					t.Errorf("installed: %v, %q, %v", mirrors, ours, err)
				}
			}
			for range 2 {
				if err := s.Uninstall(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, tree(t, s)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

func TestOtherSettingsStay(t *testing.T) {
	s := lay(t, before["other setting"])
	if err := s.Install(mirror); err != nil {
		t.Fatal(err)
	}
	got, _, err := read(s.File)
	if err != nil || !strings.Contains(string(got), `"log-driver":   "local"`) {
		t.Errorf("%s, %v", got, err)
	}
}

// What the user has changed since stays, but the mirror goes.
func TestChangesSinceStay(t *testing.T) {
	s := lay(t, before["own mirror"])
	if err := s.Install(mirror); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.File, []byte(`{"registry-mirrors":["`+mirror+`","https://mine.example"],"debug":false}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Uninstall(); err != nil {
		t.Fatal(err)
	}
	got, _, err := read(s.File)
	if want := `{"registry-mirrors":["https://mine.example"],"debug":false}`; err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

func TestWhatCannotBeReadIsLeftAlone(t *testing.T) {
	s := lay(t, `{"debug": true,}`)
	want := tree(t, s)
	if err := s.Install(mirror); err == nil || !strings.Contains(err.Error(), "correct it first") {
		t.Errorf("install: %v", err)
	}
	if diff := cmp.Diff(want, tree(t, s)); diff != "" {
		t.Error(diff)
	}
	if err := (Setup{filepath.Join(t.TempDir(), "docker", "daemon.json")}).Install(mirror); err == nil {
		t.Error("installed where there is no Docker")
	}
}

func TestKillBetweenAnyTwoSteps(t *testing.T) {
	killpoint.Need(t)
	for _, what := range []string{"install", "uninstall"} {
		for _, had := range []string{"no file", "own mirror"} {
			t.Run(what+", "+had, func(t *testing.T) {
				n := 1
				for killAt(t, what, before[had], n) {
					n++
				}
				if n < 5 {
					t.Errorf("killed at %d points only", n)
				}
			})
		}
	}
}

func killAt(t *testing.T, what, content string, n int) (killed bool) {
	t.Helper()
	s := lay(t, content)
	want := tree(t, s)
	if what == "uninstall" {
		if err := s.Install(mirror); err != nil {
			t.Fatal(err)
		}
	}
	killed = killpoint.Run(t, n, what, s.File)
	if n%2 == 0 { // also by way of another Install
		if err := s.Install(mirror); err != nil {
			t.Errorf("killed at step %d, installed again: %v", n, err)
		}
	}
	if err := s.Uninstall(); err != nil {
		t.Errorf("killed at step %d, uninstalled: %v", n, err)
	}
	if diff := cmp.Diff(want, tree(t, s)); diff != "" {
		t.Errorf("killed at step %d, uninstalled (-before +after):\n%s", n, diff)
	}
	return killed
}
