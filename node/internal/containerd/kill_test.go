package containerd

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
)

func TestMain(m *testing.M) {
	killpoint.Main(m, func(args []string) error {
		s := Setup{CertsD: args[1], Registries: []string{"docker.io"}}
		if args[0] == "install" {
			return s.Install(mirror, Strict)
		}
		return s.Uninstall()
	})
}

// However far a run came, the user's set-up or the whole of ours is in place,
// and the next Uninstall brings everything back.
func TestKillBetweenAnyTwoSteps(t *testing.T) {
	killpoint.Need(t)
	for _, what := range []string{"install", "uninstall"} {
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
	certsD := lay(t, before[had])
	want := tree(t, filepath.Dir(certsD))
	s := Setup{CertsD: certsD, Registries: []string{"docker.io"}}
	if what == "uninstall" {
		if err := s.Install(mirror, Strict); err != nil {
			t.Fatal(err)
		}
	}
	killed = killpoint.Run(t, n, what, certsD)
	if got, _, err := read(s.hosts("docker.io")); err != nil ||
		string(got) != before[had]["docker.io/hosts.toml"] && !bytes.Equal(got, hostsTOML("docker.io", mirror, Strict)) {
		t.Errorf("killed at step %d: hosts.toml is neither the user's nor ours: %q, %v", n, got, err)
	}
	if n%2 == 0 { // also by way of another Install
		if err := s.Install(mirror, Fallback); err != nil {
			t.Errorf("killed at step %d, installed again: %v", n, err)
		}
	}
	if err := s.Uninstall(); err != nil {
		t.Errorf("killed at step %d, uninstalled: %v", n, err)
	}
	if diff := cmp.Diff(want, tree(t, filepath.Dir(certsD))); diff != "" {
		t.Errorf("killed at step %d, uninstalled (-before +after):\n%s", n, diff)
	}
	return killed
}
