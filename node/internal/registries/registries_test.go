package registries

import (
	"errors"
	"fmt"
	"io/fs"
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
	killpoint.Main(m, func(args []string) error {
		s := setup(args[1])
		if args[0] == "install" {
			_, err := s.Install(mirror, Strict)
			return err
		}
		return s.Uninstall()
	})
}

func setup(root string) Setup {
	s := Setup{System: filepath.Join(root, "etc/containers"), User: filepath.Join(root, "home/.config/containers"), Registries: []string{"docker.io", "quay.io"},
		Vendor: filepath.Join(root, "usr/share/containers"), Special: []string{"registries.rootful.conf.d"}}
	s.Folder, s.XDG = s.System, s.User
	return s
}

// lay writes files below a root; a name that ends in / is a folder.
func lay(t *testing.T, files map[string]string) Setup {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"etc", "home"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(file, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(file, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return setup(root)
}

func rootOf(s Setup) string { return filepath.Dir(filepath.Dir(s.System)) }

// tree describes all that is there, with the files' identity.
func tree(t *testing.T, s Setup) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(rootOf(s), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[path] = info.Mode().String()
		if !d.IsDir() {
			content, err := os.ReadFile(path)
			out[path] += fmt.Sprint(info.ModTime(), info.Sys().(*syscall.Stat_t).Ino, " ", string(content))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const ownDropIn = "etc/containers/registries.conf.d/000-shortnames.conf"

// before are what machines have.
var before = map[string]map[string]string{
	"nothing":          {},
	"an empty folder":  {"etc/containers/": ""},
	"no drop-ins":      {"etc/containers/registries.conf": "unqualified-search-registries = [\"docker.io\"]\n"},
	"drop-ins":         {"etc/containers/registries.conf": "", ownDropIn: "[aliases]\nalpine = \"docker.io/library/alpine\"\n"},
	"own mirror":       {"etc/containers/registries.conf": "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"mirror.example\"\n"},
	"version 1":        {"etc/containers/registries.conf": "[registries.search]\nregistries = ['docker.io']\n[registries.insecure]\nregistries = ['quay.io']\n[registries.block]\nregistries = []\n"},
	"a user's drop-in": {"home/.config/containers/registries.conf.d/a.conf": "[[registry]]\nlocation = \"ghcr.io\"\n"},
}

func TestUninstallRestoresExactly(t *testing.T) {
	for name, files := range before {
		for _, folder := range []string{"system", "user"} {
			t.Run(name+", "+folder, func(t *testing.T) {
				s := lay(t, files)
				if folder == "user" {
					s.Folder = s.User
				}
				want := tree(t, s)
				for _, m := range []string{mirror, mirror, "http://127.0.0.1:6001"} {
					if around, err := s.Install(m, Strict); err != nil || len(around) > 0 {
						t.Fatal(around, err)
					}
					states, around, err := s.Status()
					if err != nil || len(around) > 0 || len(states) == 0 {
						t.Fatal(states, around, err)
					}
					for _, state := range states {
						if state.Mode != Strict || state.Mirror != m {
							t.Errorf("installed: %+v, want %s", state, m)
						}
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
}

// Other files beside the drop-in stay, and so does its folder.
func TestUninstallKeepsWhatCameSince(t *testing.T) {
	s := lay(t, nil)
	if _, err := s.Install(mirror, Strict); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(s.dropIn()), "mine.conf")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Uninstall(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.dropIn()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the drop-in: %v", err)
	}
}

func TestDropIn(t *testing.T) {
	s := lay(t, nil)
	s.Registries = []string{"quay.io", "Index.docker.io"}
	read := func() string {
		t.Helper()
		content, err := os.ReadFile(s.dropIn())
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	if _, err := s.Install(mirror, Strict); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"prefix = \"docker.io\"\nlocation = \"docker.io\"\nblocked = true\n\n[[registry.mirror]]\nlocation = \"127.0.0.1:5001\"\ninsecure = true\n",
		"prefix = \"registry-1.docker.io:443\"\nlocation = \"registry-1.docker.io:443\"\nblocked = true\n\n[[registry.mirror]]\nlocation = \"127.0.0.1:5001\"\ninsecure = true\n",
		"prefix = \"quay.io\"\nlocation = \"quay.io\"\nblocked = true\n\n[[registry.mirror]]\nlocation = \"127.0.0.1:5001/quay.io\"\ninsecure = true\n",
		"prefix = \"quay.io:443\"\n",
		"prefix = \"127.0.0.1:5001\"\nlocation = \"127.0.0.1:5001\"\ninsecure = true\n", // to name images there
	} {
		if !strings.Contains(read(), want) {
			t.Errorf("Strict lacks\n%s\nin\n%s", want, read())
		}
	}
	s.Registries = []string{"quay.io"}
	if _, err := s.Install("https://mirror.example:5001", Fallback); err != nil {
		t.Fatal(err)
	}
	if got := read(); strings.Contains(got, "blocked") || strings.Contains(got, "insecure") || strings.Contains(got, "docker.io") ||
		!strings.Contains(got, "location = \"mirror.example:5001/quay.io\"\n") {
		t.Errorf("Fallback:\n%s", got)
	}
	own := filepath.Join(s.System, dropInFolder, "mine.conf")
	if err := os.WriteFile(own, []byte("[[registry]]\nlocation = \"127.0.0.1:5001\"\ninsecure = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Install(mirror, Strict); err != nil || strings.Contains(read(), "prefix = \"127.0.0.1:5001\"") {
		t.Errorf("the mirror's name is set up already: %v\n%s", err, read())
	}
	s.Registries = []string{"reg.test:5000"}
	if _, err := s.Install(mirror, Strict); err == nil || !strings.Contains(err.Error(), "with a port") {
		t.Errorf("a registry with a port: %v", err)
	}
}

// With Fallback all that was set up for a registry counts on, after the node.
func TestFallbackKeepsWhatWasSetUp(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  registry // of quay.io, without the node
	}{
		"nothing": {nil, registry{endpoint: endpoint{Location: "quay.io"}}},
		"own mirrors and location": {map[string]string{"etc/containers/registries.conf": "[[registry]]\nprefix = \"quay.io\"\nlocation = \"reg.example/quay\"\ninsecure = true\n" +
			"[[registry.mirror]]\nlocation = \"one.example/q/\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"two.example\"\npull-from-mirror = \"tag-only\"\n"},
			registry{endpoint: endpoint{Location: "reg.example/quay", Insecure: true}, Mirrors: []endpoint{{"one.example/q", true, ""}, {"two.example", false, "tag-only"}}}},
		"mirrors by digest only": {map[string]string{ownDropIn: "[[registry]]\nlocation = \"quay.io\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"one.example\"\n"},
			registry{endpoint: endpoint{Location: "quay.io"}, Mirrors: []endpoint{{"one.example", false, "digest-only"}}}},
		"a wildcard":    {map[string]string{ownDropIn: "[[registry]]\nprefix = \"*.io\"\ninsecure = true\n"}, registry{endpoint: endpoint{Location: "quay.io", Insecure: true}}},
		"of the vendor": {map[string]string{"usr/share/containers/registries.conf": "[[registry]]\nlocation = \"quay.io\"\ninsecure = true\n"}, registry{endpoint: endpoint{Location: "quay.io", Insecure: true}}},
		"blocked":       {map[string]string{"etc/containers/registries.conf": "[registries.block]\nregistries = [\"quay.io\"]\n"}, registry{endpoint: endpoint{Location: "quay.io"}, Blocked: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, tt.files)
			if _, err := s.Install(mirror, Fallback); err != nil {
				t.Fatal(err)
			}
			all, err := s.loadAll(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := all[0].find("quay.io/org/image")
			if newer, _ := all[1].find("quay.io/org/image"); newer.String() != got.String() {
				t.Errorf("since podman 6 it is %s, and not %s", newer, got)
			}
			if !ok || got.file != s.dropIn() || len(got.Mirrors) == 0 || got.Mirrors[0] != (endpoint{"127.0.0.1:5001/quay.io", true, ""}) {
				t.Fatalf("it is %+v", got)
			}
			got.file, got.Mirrors, tt.want.Prefix = "", got.Mirrors[1:], "quay.io"
			if diff := cmp.Diff(fmt.Sprintf("%+v", tt.want), fmt.Sprintf("%+v", got)); diff != "" {
				t.Errorf("after the node (-want +got):\n%s", diff)
			}
		})
	}
}

// A user's own set-up is read whatever the system's folder has.
func TestUsersOwnFolder(t *testing.T) {
	s := lay(t, map[string]string{"home/.config/containers/registries.conf": "", "etc/containers/registries.conf.d/zzz.conf": "[[registry]]\nlocation = \"docker.io\"\n"})
	s.Folder = s.User
	around, err := s.Install(mirror, Strict) // since podman 6 the system's zzz.conf counts too
	if err == nil || !strings.Contains(err.Error(), "zzz.conf") {
		t.Errorf("%v, %v", around, err)
	}
	if err := os.Remove(filepath.Join(s.System, dropInFolder, "zzz.conf")); err != nil {
		t.Fatal(err)
	}
	if around, err := s.Install(mirror, Strict); err != nil || len(around) > 0 {
		t.Errorf("%v, %v", around, err)
	}
	// A user whose XDG_CONFIG_HOME is elsewhere has clients that do not read it.
	s.XDG = filepath.Join(rootOf(s), "xdg")
	if _, around, err := s.Status(); err != nil || len(around) == 0 || !strings.Contains(around[0].Error(), "do not read the drop-in") {
		t.Errorf("with another XDG_CONFIG_HOME: %v, %v", around, err)
	}
}

// What the clients do not read either is refused, and stays as it is.
func TestWhatCannotBeReadIsLeftAlone(t *testing.T) {
	const v1 = "[registries.search]\nregistries = ['docker.io']\n"
	for name, tt := range map[string]struct{ file, content, says string }{
		"no TOML":              {"etc/containers/registries.conf", "[[registry\n", "correct it first"},
		"version 1 as drop-in": {ownDropIn, v1, "no drop-in may have"},
		"both versions":        {"etc/containers/registries.conf", "unqualified-search-registries = [\"docker.io\"]\n" + v1, "mixes the formats"},
		"no location":          {ownDropIn, "[[registry]]\nprefix = \"docker.io\"\n", "no location"},
		"a URL":                {ownDropIn, "[[registry]]\nlocation = \"https://docker.io\"\n", "named by a URL"},
		"of that name":         {"etc/containers/registries.conf.d/" + dropInName, "", "not written by Pyrsia"},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, map[string]string{tt.file: tt.content})
			want := tree(t, s)
			if _, err := s.Install(mirror, Strict); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if diff := cmp.Diff(want, tree(t, s)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

func TestElsewhere(t *testing.T) {
	s := lay(t, map[string]string{
		"etc/containers/registries.conf": "unqualified-search-registries = [\"docker.io\", \"registry.example\"]\n",
		ownDropIn:                        "[aliases]\nalpine = \"docker.io/library/alpine\"\nfedora = \"registry.fedoraproject.org/fedora\"\noff = \"\"\n",
	})
	if _, err := s.Install(mirror, Strict); err != nil {
		t.Fatal(err)
	}
	got, err := s.Elsewhere()
	if diff := cmp.Diff([]string{"any, searched for at registry.example", "fedora (registry.fedoraproject.org/fedora)"}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestKillBetweenAnyTwoSteps(t *testing.T) {
	killpoint.Need(t)
	for _, what := range []string{"install", "uninstall"} {
		for _, had := range []string{"nothing", "drop-ins"} {
			t.Run(what+", "+had, func(t *testing.T) {
				n := 1
				for killAt(t, what, before[had], n) {
					n++
				}
				if n < 3 {
					t.Errorf("killed at %d points only", n)
				}
			})
		}
	}
}

func killAt(t *testing.T, what string, files map[string]string, n int) (killed bool) {
	t.Helper()
	s := lay(t, files)
	want := tree(t, s)
	if what == "uninstall" {
		if _, err := s.Install(mirror, Strict); err != nil {
			t.Fatal(err)
		}
	}
	killed = killpoint.Run(t, n, what, rootOf(s))
	if n%2 == 0 { // also by way of another Install
		if _, err := s.Install(mirror, Strict); err != nil {
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

// A power cut after install or uninstall has returned undoes nothing of it.
func TestRenamesAreSynced(t *testing.T) {
	killpoint.Need(t)
	s := lay(t, before["nothing"])
	for _, what := range []string{"install", "uninstall"} {
		if left := killpoint.Unsynced(t, what, rootOf(s)); len(left) > 0 {
			t.Errorf("%s: not synced: %v", what, left)
		}
	}
}
