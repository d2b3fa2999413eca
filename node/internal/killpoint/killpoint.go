// Package killpoint tests what survives a kill: it runs a part of a test binary
// in a process that strace(1) kills at its nth step. It imports nothing of the
// project; only tests call it.
package killpoint

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// childVar has the test binary be the process that is killed.
const childVar = "PYRSIA_TEST_KILLPOINT"

// steps are the system calls that change files.
const steps = "renameat,renameat2,rename,linkat,link,mkdirat,mkdir,unlinkat,unlink,rmdir,write,fsync,fchmod,openat"

// Main is for TestMain: in the process that is killed it calls do with the
// arguments of Run, and elsewhere it runs the tests.
func Main(m *testing.M, do func(args []string) error) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts the calls of each thread
	if err := do(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Need skips the test if strace is not installed.
func Need(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("strace is missing: apt-get install strace")
	}
	t.Skip("strace is missing: apt-get install strace")
}

// Run has the process killed at step n, and tells whether it came that far.
func Run(t *testing.T, n int, args ...string) (killed bool) {
	t.Helper()
	return run(t, n, false, args)
}

// Try is Run for a process that fails if it is not killed.
func Try(t *testing.T, n int, args ...string) (killed bool) {
	t.Helper()
	return run(t, n, true, args)
}

func run(t *testing.T, n int, fails bool, args []string) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "strace", append([]string{"-f", "-o", "/dev/null", "-e", "trace=" + steps,
		"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", steps, n), os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), childVar+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return false
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if ok && fails && exit.Exited() {
		return false
	}
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v, to be killed at step %d: %v: %s", args, n, err, stderr.String())
	}
	return true
}

var (
	renamed = regexp.MustCompile(`rename(?:at2?)?\(.*"([^"]+)"(?:, \w+)?\) = 0$`)
	synced  = regexp.MustCompile(`fsync\(\d+<([^>]+)>\) += 0$`)
)

// Unsynced runs the process to its end, and returns the files that it renamed
// without a sync of their folder after, which a power cut may undo.
func Unsynced(t *testing.T, args ...string) (files []string) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(t.Context(), "strace", append([]string{"-f", "-y", "-o", trace,
		"-e", "trace=rename,renameat,renameat2,fsync", os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), childVar+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for line := range strings.Lines(string(calls)) {
		line = strings.TrimSpace(line)
		if m := renamed.FindStringSubmatch(line); m != nil {
			files, seen = append(files, m[1]), true
		}
		if m := synced.FindStringSubmatch(line); m != nil {
			files = slices.DeleteFunc(files, func(f string) bool { return filepath.Dir(f) == m[1] })
		}
	}
	if !seen {
		t.Fatalf("%v: nothing was renamed:\n%s", args, calls)
	}
	return files
}
