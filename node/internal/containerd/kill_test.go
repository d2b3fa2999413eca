package containerd

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
)

// The child of the kill tests runs a step of one of two mirrors, "a" and "b".
func TestMain(m *testing.M) {
	killpoint.Main(m, func(args []string) error {
		s := Setup{CertsD: args[1], Owner: args[2], Registries: []string{"quay.io"}}
		switch args[0] {
		case "install":
			_, err := s.Install(urls[args[2]], Strict)
			return err
		case "install below":
			_, err := s.Install(urls[args[2]], Fallback)
			return err
		}
		return s.Uninstall(urls[args[2]])
	})
}

// quay is what users have, for a registry that has fewer names than Docker Hub.
func quay(files map[string]string) map[string]string {
	if files == nil {
		return nil
	}
	out := map[string]string{}
	for name, content := range files {
		out[strings.Replace(name, "docker.io", "quay.io", 1)] = content
	}
	return out
}

var urls = map[string]string{"images/a/1": mirror, "images/b/2": "http://127.0.0.1:5002"}

// However far a run came, the user's set-up or the whole of ours is in place,
// and the next Uninstall brings everything back.
func TestKillBetweenAnyTwoSteps(t *testing.T) {
	killpoint.Need(t)
	for _, what := range []string{"install", "install below", "uninstall"} {
		for _, had := range []string{"no certs.d", "nothing there", "own hosts.toml", "certificates alone"} {
			t.Run(what+", "+had, func(t *testing.T) {
				points := 0
				for n := 1; killAt(t, what, had, n); n++ {
					points++
				}
				t.Logf("killed at %d points", points)
				if points < 5 {
					t.Errorf("killed at %d points only", points)
				}
			})
		}
	}
}

func killAt(t *testing.T, what, had string, n int) (killed bool) {
	t.Helper()
	certsD := lay(t, quay(before[had]))
	want := tree(t, filepath.Dir(certsD))
	s := Setup{CertsD: certsD, Owner: "images/a/1", Registries: []string{"quay.io"}}
	if what == "uninstall" {
		install(t, s, mirror, Strict)
	}
	mode := Strict
	if what == "install below" {
		mode = Fallback
	}
	killed = killpoint.Run(t, n, what, certsD, s.Owner)
	for _, f := range folders(s.Registries) {
		ours, err1 := s.content(f, mirror, mode)
		got, _, err2 := read(s.hosts(f.name))
		if err := errors.Join(err1, err2); err != nil || string(got) != quay(before[had])[f.name+"/hosts.toml"] && !bytes.Equal(got, ours) {
			t.Errorf("killed at step %d: hosts.toml of %s is neither the user's nor ours: %q, %v", n, f.name, got, err)
		}
	}
	if n%2 == 0 { // also by way of another Install
		if _, err := s.Install(mirror, Fallback); err != nil {
			t.Errorf("killed at step %d, installed again: %v", n, err)
		}
	}
	if err := s.Uninstall(mirror); err != nil {
		t.Errorf("killed at step %d, uninstalled: %v", n, err)
	}
	if diff := cmp.Diff(want, tree(t, filepath.Dir(certsD))); diff != "" {
		t.Errorf("killed at step %d, uninstalled (-before +after):\n%s", n, diff)
	}
	return killed
}

// However far a mirror came that hands over to another one, or one that claims
// what another has, pulls go to the one or the other and never around both; and
// when both have gone, all is as it was.
func TestKillWhileHandingOver(t *testing.T) {
	killpoint.Need(t)
	for _, what := range []string{"claim", "hand over"} {
		t.Run(what, func(t *testing.T) {
			points := 0
			for n := 1; handOverKilledAt(t, what, n); n++ {
				points++
			}
			t.Logf("killed at %d points", points)
			if points < 5 {
				t.Errorf("killed at %d points only", points)
			}
		})
	}
}

func handOverKilledAt(t *testing.T, what string, n int) (killed bool) {
	t.Helper()
	certsD := lay(t, quay(before["own hosts.toml"]))
	want := tree(t, certsD)
	a := Setup{CertsD: certsD, Owner: "images/a/1", Registries: []string{"quay.io"}}
	b := Setup{CertsD: certsD, Owner: "images/b/2", Registries: []string{"quay.io"}}
	install(t, a, urls[a.Owner], Strict)
	if what == "claim" {
		killed = killpoint.Try(t, n, "install", certsD, b.Owner)
	} else {
		claimed(t, b, urls[b.Owner])
		killed = killpoint.Run(t, n, "uninstall", certsD, a.Owner)
	}
	strictAll(t, a, n)
	if _, err := b.Install(urls[b.Owner], Strict); err != nil && what == "hand over" {
		// Not all folders were handed over yet: the clean-up runs again.
		if err := a.Uninstall(urls[a.Owner]); err != nil {
			t.Errorf("killed at step %d, run again: %v", n, err)
		}
		strictAll(t, a, n)
		install(t, b, urls[b.Owner], Strict)
	}
	for _, s := range []Setup{b, a} {
		if err := s.Uninstall(urls[s.Owner]); err != nil {
			t.Errorf("killed at step %d, uninstalled: %v", n, err)
		}
	}
	if diff := cmp.Diff(want, tree(t, certsD)); diff != "" {
		t.Errorf("killed at step %d, uninstalled (-before +after):\n%s", n, diff)
	}
	return killed
}

// strictAll fails unless all names of the registry are strict.
func strictAll(t *testing.T, s Setup, n int) {
	t.Helper()
	states, err := s.Status()
	if err != nil || len(states) != len(folders(s.Registries)) {
		t.Fatal(states, err)
	}
	for _, state := range states {
		if state.Mode != Strict {
			t.Errorf("killed at step %d: pulls of %s go around the mirrors: %+v", n, state.Registry, state)
		}
	}
}
