package replica

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// A caller that waits for a checkpoint is woken when it is signed, and when
// signing fails.
func TestSignings(t *testing.T) {
	damaged := errors.New("damaged")
	for name, tc := range map[string]struct {
		note func(*signings)
		want error
	}{
		"signed":               {func(s *signings) { s.note(7, nil) }, nil},
		"signed with more":     {func(s *signings) { s.note(9, nil) }, nil},
		"not signed":           {func(s *signings) { s.note(0, damaged) }, damaged},
		"with fewer, then all": {func(s *signings) { s.note(6, nil); s.note(7, nil) }, nil},
		"never":                {func(s *signings) { s.note(6, nil) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSignings()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				got := make(chan error, 1)
				go func() { got <- s.await(ctx, 7) }()
				synctest.Wait()
				select {
				case err := <-got:
					t.Fatalf("nothing was signed yet: %v", err)
				default:
				}
				tc.note(s)
				synctest.Wait()
				if errors.Is(tc.want, context.Canceled) {
					select {
					case err := <-got:
						t.Fatalf("woken by a smaller tree: %v", err)
					default:
					}
					cancel()
				}
				if err := <-got; !errors.Is(err, tc.want) {
					t.Errorf("got %v, want %v", err, tc.want)
				}
			})
		})
	}
	s := newSignings()
	s.note(3, nil)
	s.note(0, damaged)
	if s.failure() == nil || s.await(t.Context(), 3) == nil {
		t.Error("a failure is forgotten")
	}
	s.note(3, nil)
	if err := errors.Join(s.failure(), s.await(t.Context(), 3)); err != nil {
		t.Errorf("signed after a failure: %v", err)
	}
}
