package controllers

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestDue(t *testing.T) {
	failure := &v1alpha1.ImageFailure{Reason: "ImageNotFound"}
	p := &pass{images: map[string]*resolution{
		"new":     {},
		"fresh":   {at: noon.Add(-10 * time.Minute)},
		"old":     {at: noon.Add(-2 * time.Hour)},
		"older":   {at: noon.Add(-3 * time.Hour)},
		"retry":   {failure: failure, retryAt: noon.Add(-time.Second)},
		"backoff": {failure: failure, retryAt: noon.Add(5 * time.Minute)},
	}}
	images, next := p.due(noon, time.Hour, 10)
	if diff := cmp.Diff([]string{"new", "older", "old", "retry"}, images); diff != "" {
		t.Errorf("those that waited longest come first (-want +got):\n%s", diff)
	}
	if want := noon.Add(5 * time.Minute); !next.Equal(want) {
		t.Errorf("next at %v, want %v", next, want)
	}
	images, next = p.due(noon, time.Hour, 2)
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
			setDone(a, v1alpha1.ConditionPublished, "Published", "")
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

func TestArtifactName(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	long := "docker.io/library/" + strings.Repeat("long/", 45) + "x:1"
	for image, want := range map[string]string{
		"docker.io/library/alpine:3.20":     "alpine-3.20-0123456789ab",
		"docker.io/bitnami/redis:7":         "bitnami-redis-7-0123456789ab",
		"ghcr.io/org/app:v1":                "ghcr.io-org-app-v1-0123456789ab",
		"docker.io/library/x:RC_1":          "x-rc-1-91441151-0123456789ab",
		"docker.io/library/x:rc_1":          "",
		"docker.io/library/x:1._-.":         "",
		"docker.io/library/x:_":             "",
		"registry.example:5000/library/x:1": "",
		long:                                "",
	} {
		got := artifactName(image, digest)
		if errs := validation.IsDNS1123Subdomain(got); len(errs) > 0 {
			t.Errorf("%s: %q: %v", image, got, errs)
		}
		if want != "" && got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}
