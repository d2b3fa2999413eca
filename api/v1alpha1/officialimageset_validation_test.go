package v1alpha1

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func imageSet(change ...func(*OfficialImageSetSpec)) *OfficialImageSet {
	s := &OfficialImageSet{Spec: OfficialImageSetSpec{
		PublisherRef: LocalReference{Name: "publisher"},
		Images:       []ImageTags{{Repository: "alpine", Tags: []string{"3.20"}}},
	}}
	s.Name = "images"
	for _, c := range change {
		c(&s.Spec)
	}
	return s
}

func TestOfficialImageSetIsValidated(t *testing.T) {
	needAPI(t)
	interval := func(d time.Duration) func(*OfficialImageSetSpec) {
		return func(s *OfficialImageSetSpec) { s.Interval = &metav1.Duration{Duration: d} }
	}
	images := func(images ...ImageTags) func(*OfficialImageSetSpec) {
		return func(s *OfficialImageSetSpec) { s.Images = images }
	}
	catalog := func(a *CatalogArchive, hub *CatalogDockerHub) func(*OfficialImageSetSpec) {
		return func(s *OfficialImageSetSpec) { s.Catalog = &Catalog{Archive: a, DockerHub: hub} }
	}
	for name, tc := range map[string]struct {
		obj  *OfficialImageSet
		want string
	}{
		"a set":                {imageSet(), ""},
		"no images":            {imageSet(images()), "give images, catalog, or both"},
		"a rule":               {imageSet(images(ImageTags{Repository: "alpine", TagRules: TagRules{Semver: ">=3", Regexp: ".*", Newest: 3, Exclude: []string{"*-rc*"}}})), ""},
		"neither tag nor rule": {imageSet(images(ImageTags{Repository: "alpine"})), "give tags, or a rule that finds them"},
		"no rule but exclude":  {imageSet(images(ImageTags{Repository: "alpine", TagRules: TagRules{Exclude: []string{"*"}}})), "give tags, or a rule that finds them"},
		"an archive":           {imageSet(images(), catalog(&CatalogArchive{URL: "https://example.com/x.tar.gz", SHA256: strings.Repeat("0", 64)}, nil)), ""},
		"an unreviewed one":    {imageSet(images(), catalog(&CatalogArchive{URL: "https://example.com/x.tar.gz", SHA256: "0"}, nil)), "sha256"},
		"an archive on a disk": {imageSet(images(), catalog(&CatalogArchive{URL: "file:///etc/passwd", SHA256: strings.Repeat("0", 64)}, nil)), "url must be an http or https URL"},
		"Docker Hub":           {imageSet(images(), catalog(nil, &CatalogDockerHub{TagRules: TagRules{Newest: 2}})), ""},
		"all of Docker Hub":    {imageSet(images(), catalog(nil, &CatalogDockerHub{})), "give a rule"},
		"Docker Hub elsewhere": {imageSet(images(), catalog(nil, &CatalogDockerHub{Endpoint: "hub", TagRules: TagRules{Newest: 2}})), "endpoint must be an http or https URL"},
		"an empty catalog":     {imageSet(catalog(nil, nil)), "exactly one of archive and dockerHub"},
		"two catalogs":         {imageSet(catalog(&CatalogArchive{URL: "https://example.com/", SHA256: strings.Repeat("0", 64)}, &CatalogDockerHub{TagRules: TagRules{Newest: 2}})), "exactly one of archive and dockerHub"},
		"platforms":            {imageSet(func(s *OfficialImageSetSpec) { s.Platforms = []string{"linux/amd64", "linux/arm/v7", "windows/amd64"} }), ""},
		"half a platform":      {imageSet(func(s *OfficialImageSetSpec) { s.Platforms = []string{"amd64"} }), "platforms"},
		"an unknown mode":      {imageSet(func(s *OfficialImageSetSpec) { s.Mode = "Maybe" }), "supported values"},
		"an unknown deletion":  {imageSet(func(s *OfficialImageSetSpec) { s.DeletionPolicy = "Shred" }), "supported values"},
		"all ways to name one": {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"1"}}, ImageTags{Repository: "library/alpine", Tags: []string{"1"}}, ImageTags{Repository: "docker.io/library/a_b", Tags: []string{"RC-1_x"}}, ImageTags{Repository: "localhost:5000/a", Tags: []string{"1"}})), ""},
		"the same twice":       {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"1"}}, ImageTags{Repository: "alpine", Tags: []string{"2"}})), "Duplicate value"},
		"a tag twice":          {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"1", "1"}})), "Duplicate value"},
		"a tag in the name":    {imageSet(images(ImageTags{Repository: "alpine:1", Tags: []string{"1"}})), "repository"},
		"capitals":             {imageSet(images(ImageTags{Repository: "Alpine", Tags: []string{"1"}})), "repository"},
		"a digest as a tag":    {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"sha256:0"}})), "tags"},
		"a short interval":     {imageSet(interval(10 * time.Second)), ""},
		"too short a one":      {imageSet(interval(9 * time.Second)), "10s or longer"},
	} {
		t.Run(name, func(t *testing.T) { check(t, tc.obj, tc.want) })
	}
}
