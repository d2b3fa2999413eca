// Package steps is the demo, step by step. `make demo` runs the steps for a
// reader; `make e2e` runs the same ones as tests. Each step checks what it
// claims and returns an error where the claim does not hold.
package steps

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Step is one part of the demo.
type Step struct {
	Name string
	// Proves is the step's claim in plain words.
	Proves string
	Run    func(context.Context, *Env) error
}

// A step that has not ended by then has failed. The first one may compile
// Kubernetes.
const (
	stepLimit  = 8 * time.Minute
	buildLimit = time.Hour
)

func (s Step) limit() time.Duration {
	if s.Name == cluster.Name {
		return buildLimit
	}
	return stepLimit
}

// Do runs the step and prints its time and what it proves.
func (s Step) Do(ctx context.Context, w *Env) error {
	fmt.Fprintf(w.Out, "=== %s\n", s.Name)
	start := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, s.limit(), fmt.Errorf("not within %s", s.limit()))
	defer cancel()
	if err := s.Run(bounded, w); err != nil {
		w.diagnose(ctx)
		if bounded.Err() != nil {
			err = errors.Join(context.Cause(bounded), err)
		}
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	fmt.Fprintf(w.Out, "--- %.1f s. Proves: %s\n", time.Since(start).Seconds(), s.Proves)
	return nil
}

// diagnose prints what helps to find out why a step failed, as far as the
// cluster can still tell.
func (w *Env) diagnose(ctx context.Context) {
	if w.Client == nil || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // nothing may answer any more
	defer cancel()
	for _, argv := range [][]string{
		{"kubectl", "get", "pods", "-A", "-o", "wide"},
		{"kubectl", "get", "pn,ois,pa", "-o", "wide"},
		{"kubectl", "get", "events", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp"},
		{"kubectl", "-n", "pyrsia-system", "logs", "deployment/pyrsia-operator", "--tail=20"},
	} {
		if err := w.Show(ctx, argv...); err != nil {
			fmt.Fprintln(w.Out, err)
		}
	}
}
