package containerd

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mirror = "http://127.0.0.1:5001"

// tree describes all files and folders below one: content, mode, and the
// files' identity and age.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			out[path] = info.Mode().String()
			return nil
		}
		data, err := os.ReadFile(path)
		out[path] = fmt.Sprint(info.Mode(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino, " ", string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// before are what users have.
var before = map[string]map[string]string{
	"no certs.d":          nil,
	"nothing there":       {},
	"own hosts.toml":      {"docker.io/hosts.toml": "server = \"https://mine.example\"\n"},
	"certificates alone":  {"docker.io/ca.crt": "PEM"},
	"another registry":    {"quay.io/hosts.toml": "server = \"https://quay.io\"\n"},
	"an empty hosts.toml": {"docker.io/hosts.toml": ""},
}

// lay makes a certs.d, or only its place.
func lay(t *testing.T, files map[string]string) (certsD string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "certs.d")
	if files != nil {
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for f, content := range files {
		write(t, filepath.Join(root, f), content)
	}
	return root
}

func TestUninstallRestoresExactly(t *testing.T) {
	for name, files := range before {
		t.Run(name, func(t *testing.T) {
			root := lay(t, files)
			before := tree(t, filepath.Dir(root))
			s := Setup{CertsD: root, Registries: []string{"docker.io"}}
			for _, mode := range []Mode{Strict, Strict, Fallback} {
				if err := s.Install(mirror, mode); err != nil {
					t.Fatal(err)
				}
			}
			want := []State{{"docker.io", Fallback, mirror}}
			if got, err := s.Status(); err != nil || !cmp.Equal(got, want) {
				t.Errorf("status: %v, %v", got, err)
			}
			for range 2 {
				if err := s.Uninstall(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, tree(t, filepath.Dir(root))); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

func TestUninstallLeavesWhatTheUserWroteSince(t *testing.T) {
	root := t.TempDir()
	s := Setup{CertsD: root, Registries: []string{"docker.io"}}
	if err := s.Install(mirror, Strict); err != nil {
		t.Fatal(err)
	}
	write(t, s.hosts("docker.io"), "mine")
	want := maps.Clone(tree(t, filepath.Join(root, "docker.io")))
	if err := s.Uninstall(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, tree(t, filepath.Join(root, "docker.io"))); diff != "" {
		t.Error(diff)
	}
}

func TestRegistriesThatAreNotListedAnyMoreAreRestored(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "quay.io", hostsFile), "mine")
	other := Setup{CertsD: root, Registries: []string{"ghcr.io"}}
	if err := other.Install("http://127.0.0.1:5002", Strict); err != nil {
		t.Fatal(err)
	}
	for _, registries := range [][]string{{"docker.io", "quay.io"}, {"docker.io"}} {
		if err := (Setup{CertsD: root, Registries: registries}).Install(mirror, Strict); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Setup{CertsD: root, Registries: []string{"docker.io", "ghcr.io", "quay.io"}}.Status()
	if err != nil {
		t.Fatal(err)
	}
	want := []State{{"docker.io", Strict, mirror}, {"ghcr.io", Strict, "http://127.0.0.1:5002"}, {Registry: "quay.io"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if data, _ := os.ReadFile(filepath.Join(root, "quay.io", hostsFile)); string(data) != "mine" {
		t.Errorf("quay.io: %q", data)
	}
}

func TestNamesOutsideOfCertsDAreRefused(t *testing.T) {
	for _, name := range []string{"", "..", "../etc", "a/b", ".pyrsia-backup"} {
		s := Setup{CertsD: t.TempDir(), Registries: []string{name}}
		if s.Install(mirror, Strict) == nil || s.Uninstall() == nil {
			t.Errorf("registry %q was accepted", name)
		}
	}
}

func TestStrictNamesTheMirrorAlone(t *testing.T) {
	want := header + `# Mode: Strict
server = "http://127.0.0.1:5001"

[host."http://127.0.0.1:5001"]
  capabilities = ["pull", "resolve"]
`
	if diff := cmp.Diff(want, string(hostsTOML("docker.io", mirror, Strict))); diff != "" {
		t.Error(diff)
	}
}
