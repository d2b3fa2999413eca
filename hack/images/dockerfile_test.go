package main

import (
	"go/version"
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	from   = regexp.MustCompile(`(?m)^FROM (?:--platform=\S+ )?(\S+)`)
	pinned = regexp.MustCompile(`^golang:([0-9.]+)@sha256:[0-9a-f]{64}$`)
	goLine = regexp.MustCompile(`(?m)^go (\S+)$`)
)

// What an image is built from cannot change: each base image is named by its
// digest, and the compiler is new enough for this module.
func TestBaseImagesArePinned(t *testing.T) {
	dockerfile, err1 := os.ReadFile("../../Dockerfile")
	mod, err2 := os.ReadFile("../../go.mod")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	wanted := "go" + goLine.FindStringSubmatch(string(mod))[1]
	bases := from.FindAllStringSubmatch(string(dockerfile), -1)
	if len(bases) == 0 {
		t.Fatal("the Dockerfile has no base image")
	}
	for _, b := range bases {
		image := b[1]
		if image == "scratch" {
			continue
		}
		m := pinned.FindStringSubmatch(image)
		if m == nil {
			t.Errorf("FROM %s: want golang:VERSION@sha256:DIGEST, or scratch", image)
		} else if version.Compare("go"+m[1], wanted) < 0 {
			t.Errorf("FROM %s: go.mod wants %s", strings.Split(image, "@")[0], wanted)
		}
	}
}
