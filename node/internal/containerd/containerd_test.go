package containerd

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mirror = "http://127.0.0.1:5001"

// setup is the one of the tests' owner.
func setup(certsD string, registries ...string) Setup {
	return Setup{CertsD: certsD, Owner: "images/mirror/1", Registries: registries}
}

func install(t *testing.T, s Setup, mirror string, mode Mode) {
	t.Helper()
	if _, err := s.Install(mirror, mode); err != nil {
		t.Fatal(err)
	}
}

// hub is the state of all folders of Docker Hub, and of further registries.
func hub(mode Mode, mirror, owner string, registries ...string) (out []State) {
	for _, f := range folders(append(registries, "docker.io")) {
		out = append(out, State{f.name, mode, mirror, owner})
	}
	return out
}

func TestFoldersOfDockerHub(t *testing.T) {
	var want []string
	for _, name := range []string{"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"} {
		want = append(want, name, name+":443", name+"_443_")
	}
	for _, registry := range []string{"docker.io", "index.docker.io", "registry-1.docker.io", "registry-1.docker.io:443"} {
		var got []string
		for _, f := range folders([]string{registry}) {
			got = append(got, f.name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}

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
			s := setup(root, "docker.io", "reg.test:5000")
			for _, mode := range []Mode{Strict, Strict, Fallback} {
				install(t, s, mirror, mode)
			}
			want := hub(Fallback, mirror, s.Owner, "reg.test:5000")
			if got, err := s.Status(); err != nil || !cmp.Equal(got, want) {
				t.Errorf("status: %v, %v", got, err)
			}
			for range 2 {
				if err := s.Uninstall(mirror); err != nil {
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
	s := setup(root, "docker.io")
	install(t, s, mirror, Strict)
	write(t, s.hosts("docker.io"), "mine")
	want := maps.Clone(tree(t, filepath.Join(root, "docker.io")))
	if err := s.Uninstall(mirror); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, tree(t, filepath.Join(root, "docker.io"))); diff != "" {
		t.Error(diff)
	}
}

// Removing our hosts.toml, or its folder, says nothing about the user's own file:
// that is asked after the mirror again, and comes back at the end.
func TestARemovedFolderIsNotTheUsersWord(t *testing.T) {
	const mine = "server = \"https://mine.example\"\n"
	for name, remove := range map[string]func(s Setup) error{
		"the file":   func(s Setup) error { return os.Remove(s.hosts("docker.io")) },
		"the folder": func(s Setup) error { return os.RemoveAll(s.dir("docker.io")) },
	} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, installed again: %t", name, again), func(t *testing.T) {
				root := lay(t, map[string]string{"docker.io/hosts.toml": mine})
				before := tree(t, root)
				s := setup(root, "docker.io")
				install(t, s, mirror, Fallback)
				want, _, _ := read(s.hosts("docker.io"))
				if err := remove(s); err != nil {
					t.Fatal(err)
				}
				if again {
					install(t, s, mirror, Fallback)
					if got, _, _ := read(s.hosts("docker.io")); string(got) != string(want) {
						t.Errorf("installed again: %s\nwant %s", got, want)
					}
				}
				if err := s.Uninstall(mirror); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, tree(t, root)); diff != "" {
					t.Errorf("after uninstall (-before +after):\n%s", diff)
				}
			})
		}
	}
}

func TestRegistriesThatAreNotListedAnyMoreAreRestored(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "quay.io", hostsFile), "mine")
	other := Setup{CertsD: root, Owner: "b/mirror/2", Registries: []string{"ghcr.io"}}
	install(t, other, "http://127.0.0.1:5002", Strict)
	install(t, setup(root, "docker.io", "quay.io"), mirror, Strict)
	restored, err := setup(root, "docker.io").Install("http://127.0.0.1:5003", Strict) // another port at the same time
	if err != nil || !cmp.Equal(restored, []string{"quay.io", "quay.io:443", "quay.io_443_"}) {
		t.Errorf("restored %v: %v", restored, err)
	}
	got, err := setup(root, "docker.io", "ghcr.io", "quay.io").Status()
	if err != nil {
		t.Fatal(err)
	}
	want := hub(Strict, "http://127.0.0.1:5003", "images/mirror/1", "ghcr.io", "quay.io")
	for i := range want {
		if strings.HasPrefix(want[i].Registry, "ghcr.io") {
			want[i].Mirror, want[i].Owner = "http://127.0.0.1:5002", "b/mirror/2"
		}
		if strings.HasPrefix(want[i].Registry, "quay.io") {
			want[i] = State{Registry: want[i].Registry}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if data, _ := os.ReadFile(filepath.Join(root, "quay.io", hostsFile)); string(data) != "mine" {
		t.Errorf("quay.io: %q", data)
	}
}

func TestNamesOutsideOfCertsDAreRefused(t *testing.T) {
	for _, name := range []string{"", "..", "../etc", "a/b", ".pyrsia-backup"} {
		s := setup(t.TempDir(), name)
		if _, err := s.Install(mirror, Strict); err == nil || s.Uninstall("") == nil {
			t.Errorf("registry %q was accepted", name)
		}
	}
}

func TestStrictNamesTheMirrorAlone(t *testing.T) {
	want := header + `# Mode: Strict
# Owner: images/mirror/1
server = "http://127.0.0.1:5001"
dial_timeout = "1s"

[host."http://127.0.0.1:5001"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "1s"
`
	if diff := cmp.Diff(want, string(setup("").strict(mirror))); diff != "" {
		t.Error(diff)
	}
}
