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
		s := Setup{File: args[1]}
		if args[0] == "install" {
			return s.Install(mirror)
		}
		_, err := s.Uninstall(args[0] == "empty")
		return err
	})
}

// before are what users have; "-" means that there is no file.
var before = map[string]string{
	"no file":       "-",
	"empty":         "",
	"other setting": "{\n  \"log-driver\":   \"local\" }\n",
	"own mirror":    `{"registry-mirrors":["https://mine.example"],"debug":true}`,
}

func lay(t *testing.T, content string) Setup {
	t.Helper()
	s := Setup{File: filepath.Join(t.TempDir(), "daemon.json")}
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
				state, err := s.Status()
				if err != nil || state.Ours != m || state.Mirrors[0] != m || state.Emptied {
					t.Errorf("installed: %+v, %v", state, err)
				}
			}
			for range 2 {
				if _, err := s.Uninstall(false); err != nil {
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
	if _, err := s.Uninstall(true); err != nil {
		t.Fatal(err)
	}
	got, _, err := read(s.File)
	if want := `{"registry-mirrors":["https://mine.example"],"debug":false}`; err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

// A dockerd that reloads the file keeps its mirrors unless the file lists some.
// So the file has an empty list until no dockerd asks the mirror any more.
func TestFileIsEmptiedForADockerdThatAsks(t *testing.T) {
	for name, tt := range map[string]struct{ had, emptied string }{
		"no file":       {"-", `{"registry-mirrors":[]}` + "\n"},
		"empty":         {"", `{"registry-mirrors":[]}` + "\n"},
		"other setting": {`{"debug": true }`, `{"debug": true,"registry-mirrors":[] }`},
		"own mirror":    {before["own mirror"], ""}, // it takes the place of ours
		"empty list":    {`{"registry-mirrors": []}`, ""},
		"null":          {`{"registry-mirrors": null}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, tt.had)
			want := tree(t, s)
			if err := s.Install(mirror); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				emptied, err := s.Uninstall(true)
				if err != nil || emptied != (tt.emptied != "") {
					t.Fatalf("emptied: %t, %v", emptied, err)
				}
				got, _, err := read(s.File)
				if err != nil || emptied && string(got) != tt.emptied {
					t.Errorf("it is %q, %v, want %q", got, err, tt.emptied)
				}
				if state, err := s.Status(); err != nil || state.Emptied != emptied || state.Ours != "" {
					t.Errorf("%+v, %v", state, err)
				}
			}
			if emptied, err := s.Uninstall(false); err != nil || emptied {
				t.Fatalf("emptied: %t, %v", emptied, err)
			}
			if diff := cmp.Diff(want, tree(t, s)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

// Docker's folder is made where Docker is and has none, and goes with what is in it.
func TestFolderThatIsNotThere(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin)
	s := Setup{File: filepath.Join(dir, "docker", "daemon.json")}
	if err := s.Install(mirror); err == nil || !strings.Contains(err.Error(), "is Docker installed here?") {
		t.Errorf("without Docker: %v", err)
	}
	if err := os.WriteFile(filepath.Join(bin, "dockerd"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Install(mirror); err != nil {
			t.Fatal(err)
		}
	}
	if state, err := s.Status(); err != nil || state.Ours != mirror {
		t.Errorf("%+v, %v", state, err)
	}
	if _, err := s.Uninstall(false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// What came in meanwhile keeps it.
	if err := s.Install(mirror); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker", "key.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Uninstall(false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "docker")); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
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
}

func TestKillBetweenAnyTwoSteps(t *testing.T) {
	killpoint.Need(t)
	for _, what := range []string{"install", "uninstall", "empty"} {
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
	if what != "install" {
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
	if _, err := s.Uninstall(false); err != nil {
		t.Errorf("killed at step %d, uninstalled: %v", n, err)
	}
	if diff := cmp.Diff(want, tree(t, s)); diff != "" {
		t.Errorf("killed at step %d, uninstalled (-before +after):\n%s", n, diff)
	}
	return killed
}
