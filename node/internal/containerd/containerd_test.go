package containerd

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mirror = "http://127.0.0.1:5001"

// tree reads all files below a folder; folders end in a slash.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			out[path+"/"] = ""
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
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

func TestUninstallRestoresExactly(t *testing.T) {
	tests := map[string]map[string]string{
		"nothing there":       {},
		"own hosts.toml":      {"docker.io/hosts.toml": "server = \"https://mine.example\"\n"},
		"certificates alone":  {"docker.io/ca.crt": "PEM"},
		"another registry":    {"quay.io/hosts.toml": "server = \"https://quay.io\"\n"},
		"an empty hosts.toml": {"docker.io/hosts.toml": ""},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for f, content := range files {
				write(t, filepath.Join(root, f), content)
			}
			before := tree(t, root)
			s := Setup{CertsD: root, Registries: []string{"docker.io"}}
			for _, mode := range []Mode{Strict, Strict, Fallback} {
				if err := s.Install(mirror, mode); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := s.Installed(); err != nil || !got["docker.io"] {
				t.Errorf("installed: %v, %v", got, err)
			}
			for range 2 {
				if err := s.Uninstall(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, tree(t, root)); diff != "" {
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
	got, err := Setup{CertsD: root, Registries: []string{"docker.io", "ghcr.io", "quay.io"}}.Installed()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"docker.io": true, "ghcr.io": true, "quay.io": false}, got); diff != "" {
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
