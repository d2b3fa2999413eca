package steps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// quiet is how long a command or a wait may say nothing before the demo tells
// that it is still at it.
const quiet = 2 * time.Second

// Show runs a command that a reader could type too, and prints it with its
// output. If it was begun ahead, it waits for that.
func (w *Env) Show(ctx context.Context, argv ...string) error {
	fmt.Fprintf(w.Out, "$ %s\n", shellQuote(argv))
	out := &heartbeat{w: w.Out, last: time.Now()}
	defer out.start(argv[0])()
	run := func() error {
		cmd := w.command(ctx, argv)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd.Run()
	}
	if a := w.ahead[shellQuote(argv)]; a != nil {
		delete(w.ahead, shellQuote(argv))
		run = func() error {
			defer a.end()
			select {
			case <-a.ended:
			case <-ctx.Done():
				a.end()
				<-a.ended
			}
			_, err := out.Write(a.out.Bytes())
			return errors.Join(a.err, err)
		}
	}
	if err := run(); err != nil {
		return fmt.Errorf("%s: %w", shellQuote(argv), err)
	}
	return nil
}

// ahead is a command that runs before its turn. out and err are for after its end.
type ahead struct {
	end   context.CancelFunc
	ended chan struct{}
	out   bytes.Buffer
	err   error
}

// Begin runs a command that a later step shows, beside what comes before it: the
// context, which may be of one step, does not end it. Show and Close do.
func (w *Env) Begin(ctx context.Context, argv ...string) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	a := &ahead{end: end, ended: make(chan struct{})}
	if w.ahead == nil {
		w.ahead = map[string]*ahead{}
	}
	w.ahead[shellQuote(argv)] = a
	cmd := w.command(ctx, argv)
	cmd.Stdout, cmd.Stderr = &a.out, &a.out
	go func() {
		defer close(a.ended)
		a.err = cmd.Run()
	}()
}

// Quietly runs a command that a reader could type too, whose output says
// nothing unless it fails.
func (w *Env) Quietly(ctx context.Context, argv ...string) error {
	fmt.Fprintf(w.Out, "$ %s\n", shellQuote(argv))
	out := &heartbeat{w: w.Out, last: time.Now()}
	defer out.start(argv[0])()
	_, err := w.Output(ctx, argv...)
	return err
}

// Output runs a command silently and returns what it printed.
func (w *Env) Output(ctx context.Context, argv ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := w.command(ctx, argv)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", shellQuote(argv), err, stderr.Bytes())
	}
	return string(out), nil
}

// command ends its child with an interrupt, so that the child can clean up.
func (w *Env) command(ctx context.Context, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if p := w.lookPath(argv[0]); p != "" {
		cmd.Path, cmd.Err = p, nil
	}
	cmd.Dir = w.Root
	cmd.Env = append(os.Environ(), w.env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// Await calls check until it says that it is done. While it is not, check
// returns what is missing, which is shown to the reader and, at the time
// limit, is the error.
func (w *Env) Await(ctx context.Context, what string, limit time.Duration,
	check func(context.Context) (done bool, missing string, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	out := &heartbeat{w: w.Out, last: time.Now()}
	defer out.start("waiting for " + what)()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		done, missing, err := check(ctx)
		if done {
			return nil
		}
		if err != nil {
			missing = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %s", what, context.Cause(ctx), missing)
		case <-tick.C:
		}
	}
}

// heartbeat passes output on, and fills silence with how long it has lasted.
type heartbeat struct {
	mu   sync.Mutex // guards w and last
	w    io.Writer
	last time.Time
}

func (h *heartbeat) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = time.Now()
	return h.w.Write(p)
}

// start begins the beat, which slows down with time; the returned function
// ends it.
func (h *heartbeat) start(what string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	begin, gap := time.Now(), quiet
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			h.mu.Lock()
			if time.Since(h.last) >= gap {
				fmt.Fprintf(h.w, "  ... %s, %.0f s\n", what, time.Since(begin).Seconds())
				h.last, gap = time.Now(), min(2*gap, 15*time.Second)
			}
			h.mu.Unlock()
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

func shellQuote(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n\"'$&|;<>(){}[]*?\\`#") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}
