// Package e2e holds the tests that run on a real cluster, which they start.
// `make e2e` runs them.
package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
)

// TestEndToEnd runs the demo, whose steps check what they claim, and then what
// a demo does not show. The cluster stays, for a look at it if a test fails, and so
// that single steps can be run on it (make e2e STEPS=REGEXP): those that need no more
// of the others than what these have left in the cluster.
func TestEndToEnd(t *testing.T) {
	if os.Getenv("PYRSIA_E2E") == "" {
		t.Skip("needs a cluster: run 'make e2e'")
	}
	w := newEnv(t)
	if only := os.Getenv("PYRSIA_E2E_STEPS"); only != "" {
		some, err := regexp.Compile(only)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Resume(t.Context()); err != nil {
			t.Fatalf("taking up the cluster of an earlier run: %v", err)
		}
		for _, s := range append(steps.All(""), steps.Life()...) {
			if some.MatchString(s.Name) {
				run(t, w, s)
			}
		}
		return
	}
	for i, s := range steps.All("") {
		run(t, w, s)
		if i == 0 {
			run(t, w, steps.UserSettings)
		}
	}
	t.Run("Columns", func(t *testing.T) { columns(t, w) })
	t.Run("Bad input", func(t *testing.T) { badInput(t, w) })
	t.Run("Nothing is written in a steady state", func(t *testing.T) { steady(t, w) })
	for _, s := range steps.Life() {
		run(t, w, s)
	}
}

func newEnv(t *testing.T) *steps.Env {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Fatal("the cluster is made of Linux namespaces, which needs root on Linux")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	w := &steps.Env{Out: os.Stdout, Root: root}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// run ends the test if the step fails: the next ones build on it.
func run(t *testing.T, w *steps.Env, s steps.Step) {
	t.Helper()
	if !t.Run(s.Name, func(t *testing.T) {
		if err := s.Do(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}) {
		t.FailNow()
	}
}
