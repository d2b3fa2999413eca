package ledger

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// CheckPattern refuses a pattern of images that can match none.
func CheckPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("pattern of images %q: want one such as \"alpine:*\" or \"ghcr.io/owner/*:v1\"", pattern)
	}
	return nil
}

// Matches tells whether one of some patterns means the image. They are written
// as people write images: "alpine:*" for docker.io/library/alpine; * stands
// for any characters but '/', and path.Match knows what else.
func (i Image) Matches(patterns []string) bool {
	name := strings.TrimPrefix(strings.TrimPrefix(i.String(), "docker.io/"), "library/")
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}
