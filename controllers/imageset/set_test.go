package imageset

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestDue(t *testing.T) {
	failure := &v1alpha1.ImageFailure{Reason: "ImageNotFound"}
	s := &imageSet{images: map[string]*resolution{
		"new":     {},
		"fresh":   {at: noon.Add(-10 * time.Minute)},
		"old":     {at: noon.Add(-2 * time.Hour)},
		"older":   {at: noon.Add(-3 * time.Hour)},
		"retry":   {failure: failure, retryAt: noon.Add(-time.Second)},
		"backoff": {failure: failure, retryAt: noon.Add(5 * time.Minute)},
	}}
	images, next := s.due(noon, time.Hour, 10)
	if diff := cmp.Diff([]string{"new", "older", "old", "retry"}, images); diff != "" {
		t.Errorf("those that waited longest come first (-want +got):\n%s", diff)
	}
	if want := noon.Add(5 * time.Minute); !next.Equal(want) {
		t.Errorf("next at %v, want %v", next, want)
	}
	images, next = s.due(noon, time.Hour, 2)
	if len(images) != 2 || next.After(noon) {
		t.Errorf("got %v and next at %v, want two images and more at once", images, next)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: 2 * time.Second, 3: 8 * time.Second, 9: retryMax, 1 << 30: retryMax} {
		if got := backoff(failures); got != want {
			t.Errorf("after %d failures: %v, want %v", failures, got, want)
		}
	}
}

func TestUnwanted(t *testing.T) {
	art := func(digest string, published bool, age int) *v1alpha1.Artifact {
		a := &v1alpha1.Artifact{Spec: v1alpha1.ArtifactSpec{Digest: digest}}
		a.Name = digest
		a.CreationTimestamp = metav1.NewTime(noon.Add(-time.Duration(age) * time.Hour))
		if published {
			status.SetDone(a, v1alpha1.ConditionPublished, "Published", "")
		}
		return a
	}
	have := []*v1alpha1.Artifact{art("e", true, 1), art("d", false, 2), art("c", true, 3), art("b", true, 4), art("a", true, 5)}
	for name, tc := range map[string]struct {
		i     *resolution
		limit int
		want  string
	}{
		"history limit":                     {&resolution{digest: "e"}, 1, "dba"},
		"all history":                       {&resolution{digest: "e"}, 9, "d"},
		"no history":                        {&resolution{digest: "e"}, 0, "dcba"},
		"the current one is never deleted":  {&resolution{digest: "a"}, 0, "edcb"},
		"taken out of the set":              {nil, 3, "edcba"},
		"the current digest is not known":   {&resolution{}, 0, ""},
		"overtaken before it was published": {&resolution{digest: "f"}, 9, "d"},
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			for _, a := range unwanted(have, tc.i, tc.limit) {
				got.WriteString(a.Name)
			}
			if got.String() != tc.want {
				t.Errorf("deletes %q, want %q", got.String(), tc.want)
			}
		})
	}
}

// After a restart the newest Artifact tells which digest a tag has, if only the
// set can have created it.
func TestWhatIsRemembered(t *testing.T) {
	set := fixtures.ImageSet("ns", time.Hour)
	set.Status.LastResolvedTime = &metav1.Time{Time: noon}
	art := func(digest string, block int64) *v1alpha1.Artifact {
		a := fixtures.Artifact("ns", digest, "docker.io/library/a:1", digest)
		if block >= 0 {
			a.Status.Block = &v1alpha1.Block{Height: block}
		}
		return a
	}
	for name, tc := range map[string]struct {
		have []*v1alpha1.Artifact
		want string
	}{
		"none":                       {nil, ""},
		"one":                        {[]*v1alpha1.Artifact{art("a", 1)}, "a"},
		"one that is not published":  {[]*v1alpha1.Artifact{art("a", -1)}, "a"},
		"history":                    {[]*v1alpha1.Artifact{art("b", 2), art("a", 1)}, "b"},
		"a younger one, older block": {[]*v1alpha1.Artifact{art("a", 1), art("b", 2)}, ""},
		"a younger one, no block":    {[]*v1alpha1.Artifact{art("a", -1), art("b", 2)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := remembered(set, "docker.io/library/a:1", tc.have); got.digest != tc.want || got.at.IsZero() != (tc.want == "") {
				t.Errorf("it is remembered as %q, resolved at %v, want %q", got.digest, got.at, tc.want)
			}
		})
	}
}
