package steps

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestShowPrintsTheCommandAndItsOutput(t *testing.T) {
	var out bytes.Buffer
	w := &Env{Out: &out, Root: t.TempDir()}
	if err := w.Show(t.Context(), "sh", "-c", "echo one; echo two >&2"); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "$ sh -c 'echo one; echo two >&2'\none\ntwo\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := w.Show(t.Context(), "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a command that fails: %v", err)
	}
}

// A command that was begun is not run a second time: it is shown when its turn comes,
// with all that it has said.
func TestShowWaitsForWhatWasBegun(t *testing.T) {
	var out bytes.Buffer
	w := &Env{Out: &out, Root: t.TempDir()}
	begun := []string{"sh", "-c", "echo once >>file; cat file; while ! [ -e turn ]; do sleep 0.01; done"}
	fails := []string{"sh", "-c", "echo it fails; exit 3"}
	step, end := context.WithCancel(t.Context())
	w.Begin(step, begun...)
	w.Begin(step, fails...)
	end() // the step is over
	if err := w.Show(t.Context(), "touch", "turn"); err != nil {
		t.Fatal(err)
	}
	if err := w.Show(t.Context(), begun...); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "$ touch turn\n$ "+shellQuote(begun)+"\nonce\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := w.Show(t.Context(), fails...); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.HasSuffix(out.String(), "it fails\n") {
		t.Errorf("a command that fails: %v: %s", err, &out)
	}
	w.Begin(t.Context(), "sleep", "1000")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Show(over, "sleep", "1000"); err == nil {
		t.Error("it is waited for although the demo is over")
	}
	w.Begin(t.Context(), "sleep", "1000")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestShellQuote(t *testing.T) {
	tests := map[string][]string{
		"kubectl get pn,ois,pa":         {"kubectl", "get", "pn,ois,pa"},
		"kubectl wait pa --for=x=Ready": {"kubectl", "wait", "pa", "--for=x=Ready"},
		`echo 'it'\''s' ''`:             {"echo", "it's", ""},
		"get -o 'jsonpath={.status}'":   {"get", "-o", "jsonpath={.status}"},
	}
	for want, argv := range tests {
		if got := shellQuote(argv); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAwaitTellsThatItWaitsAndWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := &Env{Out: &out}
		start := time.Now()
		err := w.Await(t.Context(), "snow", 10*time.Second, func(context.Context) (bool, string, error) {
			return time.Since(start) > 8500*time.Millisecond, "it is warm", nil
		})
		if err != nil {
			t.Error(err)
		}
		if got, want := out.String(), "  ... waiting for snow, 2 s\n  ... waiting for snow, 6 s\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		err = w.Await(t.Context(), "snow", 5*time.Second, func(context.Context) (bool, string, error) {
			return false, "", errors.New("no weather")
		})
		if err == nil || err.Error() != "waiting for snow: not within 5s: no weather" {
			t.Errorf("got %v", err)
		}
	})
}
