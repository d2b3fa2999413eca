package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// With Fallback all that containerd asked before is asked after the mirror, with
// the same certificates, headers and settings, by whatever name, and however
// often and in which mode it was installed before; and in the end all is as it was.
func TestFallbackIsBelowTheMirror(t *testing.T) {
	names := []string{"reg.test:5000", "localhost:5000", "docker.io", "docker.io:443", "index.docker.io", "registry-1.docker.io:443"}
	for name, files := range setUps {
		t.Run(name, func(t *testing.T) {
			root := lay(t, files)
			want, wantTree := map[string][]endpoint{}, tree(t, root)
			for _, name := range names {
				want[name] = append([]endpoint{{URL: mirror, Capabilities: []string{"pull", "resolve"}, DialTimeout: dialTimeout}}, asked(t, root, name)...)
			}
			s := setup(root, "reg.test:5000", "localhost:5000", "docker.io")
			for _, modes := range [][]Mode{{Fallback}, {Fallback}, {Strict, Fallback}} {
				for _, mode := range modes {
					install(t, s, mirror, mode)
				}
				for _, name := range names {
					if diff := cmp.Diff(want[name], asked(t, root, name)); diff != "" {
						t.Errorf("%v, pulls of %s (-want +got):\n%s", modes, name, diff)
					}
				}
				states, err := s.Status()
				if err != nil || slices.ContainsFunc(states, func(st State) bool { return st.Mode != Fallback || st.Mirror != mirror || st.Owner != s.Owner }) {
					t.Errorf("%v: status: %v, %v", modes, states, err)
				}
			}
			if err := s.Uninstall(mirror); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantTree, tree(t, root)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

// What the user wrote stays, byte for byte: also what this release does not know.
func TestFallbackKeepsTheText(t *testing.T) {
	text := setUps["certificates, headers"]["reg.test:5000/hosts.toml"]
	root := lay(t, setUps["certificates, headers"])
	s := setup(root, "reg.test:5000")
	install(t, s, mirror, Fallback)
	got, _, _ := read(s.hosts("reg.test:5000"))
	if without := strings.Replace(string(got), host(mirror)+"\n", "", 1); !strings.HasSuffix(without, text) {
		t.Errorf("%s", got)
	}
}

// A hosts.toml that is a link, as of a ConfigMap, leads from its own folder.
func TestFallbackBelowALink(t *testing.T) {
	root := lay(t, map[string]string{"shared/mine.toml": "server = \"https://real.test\"\n", "quay.io/x": ""})
	if err := os.Symlink("../shared/mine.toml", filepath.Join(root, "quay.io", hostsFile)); err != nil {
		t.Fatal(err)
	}
	want := asked(t, root, "quay.io")
	s := setup(root, "quay.io")
	for range 2 {
		install(t, s, mirror, Fallback)
		if diff := cmp.Diff(want, asked(t, root, "quay.io")[1:]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if err := s.Uninstall(mirror); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(s.hosts("quay.io")); err != nil || to != "../shared/mine.toml" {
		t.Errorf("after uninstall: %q, %v", to, err)
	}
}

// A user may have one of a registry's names be a link to another one, in whole or in
// its hosts.toml: containerd goes on to what it asked before, however often it is set
// up, and the links come back.
func TestFallbackBelowALinkBetweenFolders(t *testing.T) {
	for name, link := range map[string]struct{ at, to string }{
		"the file":         {"index.docker.io/" + hostsFile, "../docker.io/" + hostsFile},
		"the folder":       {"index.docker.io", "docker.io"},
		"the first folder": {"docker.io", "registry-1.docker.io"},
	} {
		t.Run(name, func(t *testing.T) {
			own := "docker.io"
			if link.at == own {
				own = link.to
			}
			const content = "server = \"https://real.test\"\n"
			root := lay(t, map[string]string{own + "/" + hostsFile: content})
			at := filepath.Join(root, link.at)
			if filepath.Base(at) == hostsFile {
				if err := os.Mkdir(filepath.Dir(at), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(link.to, at); err != nil {
				t.Fatal(err)
			}
			want := map[string][]endpoint{"docker.io": asked(t, root, "docker.io"), "index.docker.io": asked(t, root, "index.docker.io")}
			s := setup(root, "docker.io")
			for range 2 {
				install(t, s, mirror, Fallback)
				for name := range want {
					if diff := cmp.Diff(want[name], asked(t, root, name)[1:]); diff != "" {
						t.Errorf("%s (-want +got):\n%s", name, diff)
					}
				}
				if file, err := s.Drifted(mirror, Fallback); err != nil || file != "" {
					t.Errorf("%q is not as it was installed, %v", file, err)
				}
			}
			if err := s.Uninstall(mirror); err != nil {
				t.Fatal(err)
			}
			to, err1 := os.Readlink(at)
			data, err2 := os.ReadFile(s.hosts(own))
			left, err3 := os.ReadDir(root)
			if err := errors.Join(err1, err2, err3); err != nil || to != link.to || string(data) != content || len(left) != 2 {
				t.Errorf("after uninstall: the link leads to %q, %s/hosts.toml is %q, and there are %v: %v", to, own, data, left, err)
			}
		})
	}
}

// A file that cannot be kept below the mirror's is not lost: nothing is written.
func TestWhatCannotBeKeptBelowIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ hosts, says string }{
		"no TOML":                {"server = https://x", "containerd does not read it"},
		"a byte order mark":      {"\ufeffserver = \"https://x.test\"\n", "containerd does not read it"},
		"an unknown capability":  {"[host.\"https://x.test\"]\ncapabilities = [\"mirror\"]\n", `unknown capability "mirror"`},
		"a number for ca":        {"ca = 1\n", `"ca" is neither`},
		"three files for client": {"client = [[\"a\", \"b\", \"c\"]]\n", `"client" has what`},
		"a number in client":     {"client = [1]\n", `"client" has what`},
		"a table for client":     {"client = {a = 1}\n", `"client" is neither`},
		"a number for a header":  {"[header]\nX = 1\n", `header "X"`},
		"a timeout":              {"dial_timeout = \"soon\"\n", "dial_timeout"},
		"an URL":                 {"server = \"https://x.test:port\"\n", "invalid port"},
		"the mirror":             {"[host.\"" + mirror + "\"]\n", mirror + " itself"},
		"dotted hosts":           {"host.\"https://x.test\".skip_verify = true\n", "which containerd 2.x does not see"},
		"inline hosts":           {"host = {\"https://x.test\" = {}}\n", "which containerd 2.x does not see"},
		"hosts in one table":     {"[host]\n\"https://x.test\" = {}\n", "which containerd 2.x does not see"},
		"a list of hosts":        {"[[host]]\n", "containerd does not read it"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, folder := range []string{"quay.io", "_default"} {
				root := lay(t, map[string]string{folder + "/hosts.toml": tc.hosts})
				want := registryFiles(t, root)
				s := setup(root, "quay.io", "ghcr.io")
				if _, err := s.Install(mirror, Fallback); err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), s.hosts(folder)) {
					t.Errorf("in %s: %v, want %q", folder, err, tc.says)
				}
				if diff := cmp.Diff(want, registryFiles(t, root)); diff != "" {
					t.Errorf("in %s, something was written (-before +after):\n%s", folder, diff)
				}
				install(t, s, mirror, Strict) // which does not ask the user's hosts
				if err := s.Uninstall(mirror); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, registryFiles(t, root)); diff != "" {
					t.Errorf("in %s, after uninstall (-before +after):\n%s", folder, diff)
				}
			}
		})
	}
}

// FuzzPutBelow: whatever containerd reads is read with the mirror before it.
func FuzzPutBelow(f *testing.F) {
	for _, files := range setUps {
		for _, content := range files {
			f.Add(content)
		}
	}
	f.Fuzz(func(t *testing.T, hosts string) {
		out, err := putBelow([]byte(hosts), mirror, func(p string) string { return p })
		if err != nil {
			return
		}
		if err := checkHosts(out); err != nil {
			t.Fatalf("%v: %q of %q", err, out, hosts)
		}
		if !strings.Contains(string(out), host(mirror)) || len(out) > len(hosts)+len(host(mirror))+2 {
			t.Fatalf("%q of %q", out, hosts)
		}
		if want := fmt.Sprintf("[host.%q]", mirror); string(hostLine.Find(out)) != want && !strings.Contains(hosts, `"""`) && !strings.Contains(hosts, `'''`) {
			t.Fatalf("%q is not the first host: %q", want, out)
		}
	})
}
