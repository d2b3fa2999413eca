package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// childVar has the test binary be one run of Install or Uninstall.
const childVar = "PYRSIA_TEST_CONTAINERD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childVar); what != "" {
		runtime.LockOSThread() // strace counts the calls of each thread
		s := Setup{CertsD: os.Args[1], Registries: []string{"docker.io"}}
		err := s.Uninstall()
		if what == "install" {
			err = s.Install(mirror, Strict)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// steps are the system calls that change files.
const steps = "renameat,renameat2,rename,linkat,link,mkdirat,mkdir,unlinkat,unlink,rmdir,write,fsync,fchmod,openat"

// runKilled runs Install or Uninstall in a process that strace kills at its
// nth step, and tells whether it came that far.
func runKilled(t *testing.T, certsD, what string, n int) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-o", "/dev/null", "-e", "trace="+steps,
		"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", steps, n), os.Args[0], certsD)
	cmd.Env = append(os.Environ(), childVar+"="+what)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return false
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s, to be killed at step %d: %v: %s", what, n, err, stderr.String())
	}
	return true
}

// However far a run came, the user's set-up or the whole of ours is in place,
// and the next Uninstall brings everything back.
func TestKillBetweenAnyTwoSteps(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("strace is missing: apt-get install strace")
		}
		t.Skip("strace is missing: apt-get install strace")
	}
	if testing.Short() {
		t.Skip("it starts some hundred processes")
	}
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
	killed = runKilled(t, certsD, what, n)
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
