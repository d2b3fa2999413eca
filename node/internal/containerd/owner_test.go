package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// claimed has s try to set up what another mirror has.
func claimed(t *testing.T, s Setup, mirror string) *OwnedError {
	t.Helper()
	_, err := s.Install(mirror, Strict)
	owned, ok := errors.AsType[*OwnedError](err)
	if !ok {
		t.Fatalf("a second mirror is not refused: %v", err)
	}
	return owned
}

// registryFiles are what containerd reads of certs.d.
func registryFiles(t *testing.T, certsD string) map[string]string {
	t.Helper()
	all := tree(t, certsD)
	for name := range all {
		if strings.Contains(name, backupDir) {
			delete(all, name)
		}
	}
	return all
}

func TestSecondMirrorIsRefusedAndHarmless(t *testing.T) {
	for name, registries := range map[string][]string{
		"the same":         {"docker.io"},
		"another name":     {"registry-1.docker.io"},
		"one of several":   {"ghcr.io", "index.docker.io"},
		"a port's folders": {"reg.test:5000"},
	} {
		t.Run(name, func(t *testing.T) {
			root := lay(t, before["own hosts.toml"])
			untouched := tree(t, root)
			a := setup(root, "docker.io", "reg.test:5000")
			install(t, a, mirror, Strict)
			want := registryFiles(t, root)
			b := Setup{CertsD: root, Owner: "b/mirror/2", Registries: registries}
			for range 2 {
				owned := claimed(t, b, "http://127.0.0.1:5002")
				if owned.Owner != a.Owner || owned.Mirror != mirror {
					t.Errorf("the refusal names %q at %s", owned.Owner, owned.Mirror)
				}
			}
			if err := b.Uninstall("http://127.0.0.1:5002"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, registryFiles(t, root)); diff != "" {
				t.Errorf("the first mirror's files (-before +after the second's):\n%s", diff)
			}
			if err := a.Uninstall(mirror); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(untouched, tree(t, root)); diff != "" {
				t.Errorf("after uninstall (-before +after):\n%s", diff)
			}
		})
	}
}

// A mirror that goes while another one waits hands over to it, and the user's
// own file comes back when that one goes too.
func TestHandOver(t *testing.T) {
	root := lay(t, before["own hosts.toml"])
	want := tree(t, root)
	a, b := setup(root, "docker.io", "quay.io"), Setup{CertsD: root, Owner: "images/b/2", Registries: []string{"docker.io"}}
	c := Setup{CertsD: root, Owner: "images/c/3", Registries: []string{"docker.io"}}
	install(t, a, mirror, Strict)
	claimed(t, Setup{CertsD: root, Owner: "mallory/mirror/9", Registries: []string{"docker.io"}}, "http://127.0.0.1:5009") // of another team
	claimed(t, b, "http://127.0.0.1:5002")
	claimed(t, c, "http://127.0.0.1:5003") // waits, but b was first
	if err := a.Uninstall(mirror); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Status(); err != nil || !cmp.Equal(got, hub(Strict, "http://127.0.0.1:5002", b.Owner)) {
		t.Errorf("after the first has gone: %v, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(root, "quay.io")); err == nil {
		t.Error("what nobody waits for was not restored")
	}
	install(t, b, "http://127.0.0.1:5002", Strict)
	for _, s := range []Setup{c, b} {
		if err := s.Uninstall(""); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, tree(t, root)); diff != "" {
		t.Errorf("after all have gone (-before +after):\n%s", diff)
	}
}

// A mirror that has stopped waiting, or no longer renews its claim, gets
// nothing.
func TestClaimsEnd(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, b Setup){
		"withdrawn": func(t *testing.T, b Setup) {
			if err := b.Uninstall(""); err != nil {
				t.Fatal(err)
			}
		},
		"old": func(t *testing.T, b Setup) {
			long := time.Now().Add(-claimAge - time.Minute)
			for _, f := range folders(b.Registries) {
				if err := os.Chtimes(b.claim(f.name), long, long); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := lay(t, before["nothing there"])
			a, b := setup(root, "docker.io"), Setup{CertsD: root, Owner: "images/b/2", Registries: []string{"docker.io"}}
			install(t, a, mirror, Strict)
			claimed(t, b, "http://127.0.0.1:5002")
			end(t, b)
			if err := a.Uninstall(mirror); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{}, tree(t, root)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// v010 is a hosts.toml as v0.1.0 wrote it.
const v010 = header + `# Mode: Strict
server = "http://127.0.0.1:5001"

[host."http://127.0.0.1:5001"]
  capabilities = ["pull", "resolve"]
`

// layV010 is a certs.d as v0.1.0 left it.
func layV010(t *testing.T) string {
	return lay(t, map[string]string{"docker.io/hosts.toml": v010, ".pyrsia-backup/docker.io/hosts.toml": "mine"})
}

func TestFilesOfV010AreAdoptedByTheMirrorWhosePortTheyName(t *testing.T) {
	root := layV010(t)
	other := Setup{CertsD: root, Owner: "b/mirror/2", Registries: []string{"docker.io"}}
	if owned := claimed(t, other, "http://127.0.0.1:5002"); owned.Mirror != mirror || owned.Owner != "" {
		t.Errorf("the refusal: %+v", owned)
	}
	if err := other.Uninstall("http://127.0.0.1:5002"); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := read(other.hosts("docker.io")); string(got) != v010 {
		t.Errorf("another mirror's uninstall: %s", got)
	}
	install(t, setup(root, "docker.io"), mirror, Strict)
	if got, err := setup(root, "docker.io").Status(); err != nil || !cmp.Equal(got, hub(Strict, mirror, "images/mirror/1")) {
		t.Errorf("status: %v, %v", got, err)
	}
	if err := setup(root).Uninstall(mirror); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := read(other.hosts("docker.io")); string(got) != "mine" {
		t.Errorf("after uninstall: %q", got)
	}
}

func TestUninstallTakesBackWhatV010Wrote(t *testing.T) {
	for _, url := range []string{mirror, ""} {
		root := layV010(t)
		if err := setup(root).Uninstall(url); err != nil {
			t.Fatal(err)
		}
		if got, _, _ := read(setup(root).hosts("docker.io")); string(got) != "mine" {
			t.Errorf("uninstalled at %q: %q", url, got)
		}
	}
}

// A mirror that was created again under the same name continues with what its
// predecessor left; a late clean-up of the predecessor does not disarm it.
func TestSuccessorOfTheSameName(t *testing.T) {
	root := t.TempDir()
	old := setup(root, "docker.io", "quay.io")
	install(t, old, mirror, Strict)
	now := Setup{CertsD: root, Owner: "images/mirror/2", Registries: []string{"docker.io"}}
	install(t, now, mirror, Strict)
	if _, err := os.Stat(filepath.Join(root, "quay.io")); err == nil {
		t.Error("what the one before had set up and this one does not want is still there")
	}
	if err := old.Uninstall(mirror); err != nil {
		t.Fatal(err)
	}
	if got, err := now.Status(); err != nil || !cmp.Equal(got, hub(Strict, mirror, now.Owner)) {
		t.Errorf("status: %v, %v", got, err)
	}
	for _, owner := range []string{"images/mirror2/1", "images2/mirror/1", "local"} {
		claimed(t, Setup{CertsD: root, Owner: owner, Registries: []string{"docker.io"}}, mirror)
	}
}

func TestOwnersAreOneLine(t *testing.T) {
	for _, owner := range []string{"", "a\nserver = \"http://evil\"", strings.Repeat("x", maxOwner+1), "a\x00"} {
		s := Setup{CertsD: t.TempDir(), Owner: owner, Registries: []string{"docker.io"}}
		if _, err := s.Install(mirror, Strict); err == nil || s.Uninstall("") == nil {
			t.Errorf("owner %q was accepted", owner)
		}
	}
}

// Another team's mirror that waits gets nothing by another one's clean-up.
func TestNoHandOverToAnotherTeam(t *testing.T) {
	for _, owner := range []string{"mallory/mirror/2", "images2/mirror/2", "local"} {
		root := lay(t, before["own hosts.toml"])
		want := tree(t, root)
		a, b := setup(root, "docker.io"), Setup{CertsD: root, Owner: owner, Registries: []string{"docker.io"}}
		install(t, a, mirror, Strict)
		claimed(t, b, "http://127.0.0.1:5002")
		if err := a.Uninstall(mirror); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, tree(t, root)); diff != "" {
			t.Errorf("%s has it (-user's +now):\n%s", owner, diff)
		}
	}
}

// A user without write access cannot keep a mirror from being set up or
// restored.
func TestLockIsForRootAlone(t *testing.T) {
	s := setup(t.TempDir(), "docker.io")
	install(t, s, mirror, Strict)
	if info, err := os.Stat(s.lock()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the lock: %v, %v", info, err)
	}
}

// Two mirrors that come at the same moment must not both find a registry free.
func TestTwoAtOnce(t *testing.T) {
	for range 20 {
		root := lay(t, before["nothing there"])
		results := make(chan error, 4)
		for _, owner := range []string{"a", "b", "c", "d"} {
			go func() {
				_, err := Setup{CertsD: root, Owner: owner, Registries: []string{"docker.io"}}.Install("http://127.0.0.1:500"+owner, Strict)
				results <- err
			}()
		}
		won := 0
		for range cap(results) {
			if err := <-results; err == nil {
				won++
			}
		}
		if won != 1 {
			t.Fatalf("%d of 4 mirrors were set up", won)
		}
		states, err := setup(root, "docker.io").Status()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range states {
			if s.Owner != states[0].Owner || s.Mode != Strict {
				t.Errorf("mixed: %+v", states)
			}
		}
	}
}

// The folder that containerd prefers is written too, where the user has one and
// where not.
func TestFolderOfARegistryWithAPort(t *testing.T) {
	root := lay(t, map[string]string{"reg.test_5000_/hosts.toml": "server = \"http://127.0.0.1:5078\"\n"})
	want := tree(t, root)
	s := setup(root, "reg.test:5000")
	install(t, s, mirror, Strict)
	for _, f := range []string{"reg.test_5000_", "reg.test:5000"} {
		if got, _, _ := read(s.hosts(f)); !strings.Contains(string(got), mirror) || strings.Contains(string(got), "5078") {
			t.Errorf("%s: %s", f, got)
		}
	}
	if err := s.Uninstall(mirror); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, tree(t, root)); diff != "" {
		t.Error(diff)
	}
}

// Only what sends pulls to the port that another process has is kept from it, and
// only a mirror's own: nothing is pulled by a strict one, and others are put back.
func TestDisarm(t *testing.T) {
	root := lay(t, before["own hosts.toml"])
	s, other := setup(root, "docker.io"), Setup{CertsD: root, Owner: "other/mirror/2", Registries: []string{"quay.io"}}
	install(t, other, mirror, Strict) // at the same port: that is not for s to judge
	want := tree(t, root)
	for _, mode := range []Mode{Strict, Fallback} {
		install(t, s, mirror, mode)
		armed := registryFiles(t, root)
		if closed, restored, err := s.Disarm("http://127.0.0.1:5002"); err != nil || len(closed)+len(restored) > 0 {
			t.Errorf("%s, at another port: %v, %v, %v", mode, closed, restored, err)
		}
		if diff := cmp.Diff(armed, registryFiles(t, root)); diff != "" {
			t.Errorf("%s, after that (-before +after):\n%s", mode, diff)
		}
		for range 2 {
			if _, _, err := s.Disarm(mirror); err != nil {
				t.Fatal(err)
			}
			if armed, err := s.Armed(mirror); armed || err != nil {
				t.Errorf("%s, armed: %v, %v", mode, armed, err)
			}
		}
		if mode == Strict {
			if got := text(t, s.hosts("docker.io")); strings.Contains(got, mirror) || !strings.Contains(got, fmt.Sprintf("server = %q", Closed)) {
				t.Errorf("strict, but open:\n%s", got)
			}
			install(t, s, mirror, Strict)
			if got := text(t, s.hosts("docker.io")); !strings.Contains(got, fmt.Sprintf("server = %q", mirror)) {
				t.Errorf("after the port is the mirror's again:\n%s", got)
			}
			if _, _, err := s.Disarm(mirror); err != nil {
				t.Fatal(err)
			}
			if err := s.Uninstall(mirror); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, tree(t, root)); diff != "" {
			t.Errorf("%s, after it was put back (-before +after):\n%s", mode, diff)
		}
	}
}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A mirror that waits gets what another process took from its predecessor.
func TestDisarmHandsOver(t *testing.T) {
	root := lay(t, before["own hosts.toml"])
	s, next := setup(root, "docker.io"), setup(root, "docker.io")
	s.Owner, next.Owner = "images/a/1", "images/b/2"
	install(t, s, mirror, Strict)
	if _, err := next.Install("http://127.0.0.1:5002", Strict); err == nil {
		t.Fatal("it took what another mirror has")
	}
	if _, restored, err := s.Disarm(mirror); err != nil || len(restored) == 0 {
		t.Fatalf("%v, %v", restored, err)
	}
	if armed, err := next.Armed("http://127.0.0.1:5002"); !armed || err != nil {
		t.Errorf("who waits has nothing: %v", err)
	}
}
