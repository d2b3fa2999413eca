package pullhistory

import (
	"context"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

// A pull is written once in recordEvery. What others write meanwhile is tried again in
// the next turn, an Artifact that is gone is forgotten, and neither is an error.
func TestPullsAreRecorded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	of := schema.GroupResource{Group: "pyrsia.io", Resource: "artifacts"}
	for name, tc := range map[string]struct {
		last    time.Time // as the status tells
		answer  error
		written bool
		forgets bool
		fails   bool
	}{
		"the first pull":          {time.Time{}, nil, true, true, false},
		"a pull after an hour":    {now.Add(-recordEvery), nil, true, true, false},
		"a pull before":           {now.Add(time.Second - recordEvery), nil, false, true, false},
		"a conflict":              {time.Time{}, apierrors.NewConflict(of, "art", nil), true, false, false},
		"the Artifact is gone":    {time.Time{}, apierrors.NewNotFound(of, "art"), true, true, false},
		"an API server that ends": {time.Time{}, errors.New("connection refused"), true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			art := fixtures.Artifact("images", "art", "docker.io/library/alpine:1", "sha256:1")
			if !tc.last.IsZero() {
				art.Status.LastPulled = &metav1.Time{Time: tc.last}
			}
			writes := 0
			c := interceptor.NewClient(fixtures.Client(t), interceptor.Funcs{
				SubResourceApply: func(context.Context, client.Client, string, runtime.ApplyConfiguration, ...client.SubResourceApplyOption) error {
					writes++
					return tc.answer
				},
			})
			key := pullKey{art.Spec.Image, art.Spec.Digest}
			b := &book{heard: map[pullKey]heard{key: {last: now}}}
			err := (&Reconciler{Client: c}).record(t.Context(), b, art, now)
			if (err != nil) != tc.fails || (writes == 1) != tc.written || writes > 1 {
				t.Errorf("%d writes, %v", writes, err)
			}
			if _, kept := b.heard[key]; kept == tc.forgets {
				t.Errorf("the pull is kept: %v", kept)
			}
		})
	}
}
